//! Incremental images, and what is made of several.

use std::io::Cursor;
use std::num::NonZeroUsize;

use proptest::prelude::*;
use roam_snapshot::image::{ChainError, Image, ImageDigest, ImageWriter, Link, Merge, Meta, chain, retain};
use roam_snapshot::page::Shape;

use crate::model::{Model, Step, image, meta, range, steps};

type Open = Image<Cursor<Vec<u8>>>;

fn open(steps: &[Step], meta: &Meta) -> Open {
    Image::open(Cursor::new(image(steps, meta, &[vec![meta.sequence as u8]]).0)).unwrap()
}

fn after(parent: &Open) -> Meta {
    let meta = parent.meta().clone();
    Meta { sequence: meta.sequence + 1, parent: Some(link(parent).id()), stands_for: None, ..meta }
}

fn link(image: &Open) -> Link {
    image.meta().link(image.digest())
}

fn merge(images: &mut [Open]) -> Result<Open, ChainError> {
    let mut file = Cursor::new(Vec::new());
    let mut merge = Merge::begin(ImageWriter::begin(&mut file)?);
    images.iter_mut().try_for_each(|image| merge.add(image))?;
    let digest = merge.finish()?;
    let merged = Image::open(file)?;
    assert_eq!(merged.digest(), digest);
    Ok(merged)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// A merged image has what the guest had, and wherever a chain is cut and merged, the rest still follows.
    #[test]
    fn a_merged_image_is_the_last_of_its_chain(all in proptest::collection::vec(steps(), 2..6), cut in 1usize..5) {
        let (mut model, mut images) = (Model::default(), Vec::<Open>::new());
        for steps in &all {
            steps.iter().for_each(|step| model.apply(step));
            images.push(open(steps, &images.last().map_or_else(meta, after)));
        }
        let links: Vec<_> = images.iter().map(link).collect();
        let newest = images.last().unwrap().digest();
        prop_assert_eq!(chain(&links, newest).unwrap(), (0..images.len()).collect::<Vec<_>>());
        let mut whole = merge(&mut images).unwrap();
        model.check(&mut whole);
        prop_assert_eq!(whole.frames(), images.last().unwrap().frames());
        let expected = Meta { parent: None, stands_for: Some(newest), ..images.last().unwrap().meta().clone() };
        prop_assert_eq!(whole.meta(), &expected);

        let cut = cut.min(images.len() - 1);
        let mut rest = images.split_off(cut);
        rest.insert(0, merge(&mut images).unwrap());
        model.check(&mut merge(&mut rest).unwrap());
    }

    /// Whatever goes, what is kept can be restored; and what is whole and not needed goes.
    #[test]
    fn retention_breaks_no_chain(
        kinds in proptest::collection::vec(0u8..4, 1..40),
        lost in proptest::option::of(0usize..40),
        keep in 1usize..6,
    ) {
        let mut links: Vec<Link> = Vec::new();
        for (number, kind) in (1u8..).zip(kinds) {
            let parent = links.last().map(Link::id).filter(|_| kind > 0);
            links.push(Link { digest: digest(number), stands_for: None, parent, sequence: number.into() });
            if kind == 3 && parent.is_some() {
                // Somebody merged it, and has not deleted anything yet.
                let merged = ImageDigest([number, 1].repeat(16).try_into().unwrap());
                links.push(Link { digest: merged, stands_for: Some(digest(number)), parent: None, sequence: number.into() });
            }
        }
        if let Some(lost) = lost.filter(|lost| *lost < links.len()) {
            links.remove(lost);
        }
        let whole = |links: &[Link]| {
            let mut sequences: Vec<u64> =
                links.iter().filter(|link| chain(links, link.digest).is_ok()).map(|link| link.sequence).collect();
            sequences.sort_unstable();
            sequences.dedup();
            sequences
        };
        let before = whole(&links);
        let goes = retain(&links, NonZeroUsize::new(keep).unwrap());
        let kept: Vec<Link> =
            (0..).zip(&links).filter(|(index, _)| !goes.contains(index)).map(|(_, link)| *link).collect();
        let after = whole(&kept);
        let newest = &before[before.len().saturating_sub(keep)..];
        prop_assert!(newest.iter().all(|sequence| after.contains(sequence)), "{:?} of {:?}", after, before);
        let needed: Vec<usize> = (kept.iter().filter(|link| newest.contains(&link.sequence)))
            .filter_map(|link| chain(&kept, link.digest).ok())
            .flatten()
            .collect();
        for (index, link) in kept.iter().enumerate() {
            let broken_and_new = chain(&kept, link.digest).is_err() && newest.first() <= Some(&link.sequence);
            prop_assert!(needed.contains(&index) || broken_and_new, "{:?} is kept for nothing", link);
        }
        prop_assert_eq!(retain(&kept, NonZeroUsize::new(keep).unwrap()), Vec::<usize>::new());
    }
}

fn digest(number: u8) -> ImageDigest {
    ImageDigest([number; 32])
}

fn plain(number: u8, parent: Option<u8>) -> Link {
    Link { digest: digest(number), stands_for: None, parent: parent.map(digest), sequence: number.into() }
}

#[test]
fn a_chain_has_no_gap_and_no_ring() {
    let links = [plain(3, Some(2)), plain(1, None), plain(2, Some(1)), plain(5, Some(4)), plain(7, Some(3))];
    assert_eq!(chain(&links, digest(3)).unwrap(), [1, 2, 0]);
    assert!(matches!(chain(&links, digest(9)), Err(ChainError::Unknown(_))));
    assert!(matches!(chain(&links, digest(5)), Err(ChainError::Missing { parent, .. }) if parent == digest(4)));
    assert!(matches!(chain(&links, digest(7)), Err(ChainError::Gap { found: 7, parent: 3, .. })));
    // No file can say that, but what was made up can.
    let mut ring = [plain(1, Some(2)), plain(2, Some(1))];
    ring.iter_mut().for_each(|link| link.sequence = 1);
    assert!(chain(&ring, digest(1)).is_err());
    let own = [Link { parent: Some(digest(1)), ..plain(1, None) }];
    assert!(matches!(chain(&own, digest(1)), Err(ChainError::Cycle(_))));
}

#[test]
fn what_does_not_follow_is_not_merged() {
    let base = || open(&[Step { range: range(0, 0, 4), fill: 1 }], &meta());
    let refused = |change: &dyn Fn(&mut Meta)| {
        let mut meta = after(&base());
        change(&mut meta);
        merge(&mut [base(), open(&[], &meta)]).unwrap_err()
    };
    assert!(matches!(refused(&|meta| meta.parent = Some(digest(1))), ChainError::Parent { .. }));
    assert!(matches!(refused(&|meta| meta.parent = None), ChainError::Parent { .. }));
    assert!(matches!(refused(&|meta| meta.sequence += 1), ChainError::Gap { .. }));
    assert!(matches!(refused(&|meta| meta.module[0] ^= 1), ChainError::Code { .. }));
    assert!(matches!(refused(&|meta| meta.abi += 1), ChainError::Code { .. }));
    assert!(matches!(refused(&|meta| meta.shape = Shape(vec![4, 0, 0])), ChainError::Shrinks(_)));
    let alone = open(&[], &after(&base()));
    assert!(matches!(merge(&mut [alone]), Err(ChainError::NoBase(_))));
    assert!(matches!(merge(&mut []), Err(ChainError::Empty)));
}

#[test]
fn a_merged_image_takes_the_place_of_those_it_was_made_of() {
    let keep = NonZeroUsize::new(2).unwrap();
    let mut links = vec![plain(1, None), plain(2, Some(1)), plain(3, Some(2)), plain(4, Some(3))];
    assert!(retain(&links, keep).is_empty(), "4 and 3 rest on all of them");
    links.push(Link { digest: digest(30), stands_for: Some(digest(3)), parent: None, sequence: 3 });
    assert_eq!(retain(&links, keep), [0, 1, 2]);
    assert_eq!(chain(&links, digest(4)).unwrap(), [4, 3]);
}
