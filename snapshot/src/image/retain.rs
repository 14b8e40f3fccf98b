//! Retention: which images of a guest may go.

use std::collections::HashSet;
use std::num::NonZeroUsize;

use super::chain::{Link, by_id, follow};

/// Which of one guest's images, by where they are among these, may be deleted so that the newest `keep` can still be restored, each with all that it
/// rests on. Their order does not matter: an image is newer if its number is higher.
///
/// What a kept image follows is kept, however old: a chain is never broken. So room is bounded by who writes: let every
/// so many images be one that has everything, or [merge](super::Merge) the oldest that is to be kept with what it
/// rests on, into a file of its own. Either way this gives away what lies behind, the image that was merged included.
/// An image whose chain has a gap does not count, and goes when it is older than all that are kept.
pub fn retain(links: &[Link], keep: NonZeroUsize) -> Vec<usize> {
    let by_id = by_id(links);
    let mut whole: Vec<(u64, Vec<usize>)> =
        by_id.values().filter_map(|&index| Some((links[index].sequence, follow(links, &by_id, index).ok()?))).collect();
    // Whichever of two with one number: always the same.
    whole.sort_unstable_by(|a, b| b.cmp(a));
    whole.truncate(keep.get());
    let Some(&(oldest, _)) = whole.last() else { return Vec::new() };
    let needed: HashSet<usize> = whole.into_iter().flat_map(|(_, chain)| chain).collect();
    let unneeded = links.iter().enumerate().filter(|(index, _)| !needed.contains(index));
    let goes = unneeded.filter(|(index, link)| link.sequence < oldest || follow(links, &by_id, *index).is_ok());
    goes.map(|(index, _)| index).collect()
}
