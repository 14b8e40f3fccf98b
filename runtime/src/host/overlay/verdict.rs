//! Whose an address is, by the table. Pure.

use roam_sdn::model::{Generation, Mac, Name};
use roam_sdn::table::Table;

/// What a guest's address is to its host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::host) enum Verdict {
    /// Its own, as it is on record; or nothing is known.
    Ours,
    /// Its own, since another generation than is on record.
    Since(Generation),
    /// To be claimed: nobody's, or the table may be older than what the host holds. The controller decides.
    Claim,
    /// Another's, and why.
    Fenced(String),
}

/// Judges an address that a host holds since that generation. A table that follows the controller may lag behind a claim
/// that was granted meanwhile, but never runs ahead: an owner of a higher generation counts, one of a lower does not.
pub(super) fn judge(table: &Table, host: &Name, mac: Mac, held: Option<Generation>) -> Verdict {
    let Some(route) = table.route(mac) else { return Verdict::Claim };
    let (owner, generation) = (&route.placement.host, route.placement.generation);
    if owner == host {
        return if held == Some(generation) { Verdict::Ours } else { Verdict::Since(generation) };
    }
    match held {
        Some(held) if generation <= held => Verdict::Claim,
        _ => Verdict::Fenced(format!("{mac} is {owner}'s since generation {generation}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use roam_sdn::model::{Address, Kind};
    use roam_sdn::table::Event;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    /// Two hosts, and the address claimed by the first.
    fn table() -> Table {
        let mut table = Table::default();
        for (host, last) in [("host-a", 1), ("host-b", 2)] {
            let vtep = std::net::IpAddr::from([172, 30, 0, last]);
            table.step(&Event::Joined { host: name(host), kind: Kind::Host, vtep, migrate: None }).unwrap();
        }
        claim(&mut table, "host-a").unwrap();
        table
    }

    fn claim(table: &mut Table, host: &str) -> Result<(), roam_sdn::table::Refused> {
        let address = Address { mac: MAC, ip: None, ip6: None, name: None };
        table.step(&Event::Claimed { address, host: name(host), held: None, at_ms: 0 }).map(drop)
    }

    fn moved(table: &mut Table, to: &str) {
        let from = table.route(MAC).unwrap().placement.generation;
        table.step(&Event::Moved { mac: MAC, from, to: name(to), drain: false, at_ms: 0 }).unwrap();
    }

    #[test]
    fn a_higher_generation_of_another_fences() {
        let mut table = table();
        let judge = |table: &Table, held: Option<u64>| judge(table, &name("host-a"), MAC, held.map(Generation));
        assert_eq!(judge(&table, Some(1)), Verdict::Ours);
        assert_eq!(judge(&table, None), Verdict::Since(Generation(1)));
        moved(&mut table, "host-b");
        let fenced = Verdict::Fenced("02:00:00:00:00:01 is host-b's since generation 2".into());
        assert_eq!(judge(&table, Some(1)), fenced);
        assert_eq!(judge(&table, None), fenced);
        for held in [2, 3] {
            assert_eq!(judge(&table, Some(held)), Verdict::Claim, "the table may lag behind {held}");
        }
        moved(&mut table, "host-a");
        assert_eq!(judge(&table, Some(1)), Verdict::Since(Generation(3)));
        assert_eq!(judge(&Table::default(), Some(1)), Verdict::Claim);
    }

    proptest! {
        /// Whatever happened, two hosts never both take an address for their own.
        #[test]
        fn one_owner(moves in proptest::collection::vec(any::<bool>(), 0..20), held in proptest::option::of(0u64..25)) {
            let mut table = table();
            for to_b in moves {
                let to = if to_b { "host-b" } else { "host-a" };
                if table.route(MAC).unwrap().placement.host != name(to) {
                    moved(&mut table, to);
                }
            }
            let own = ["host-a", "host-b"].map(|host| judge(&table, &name(host), MAC, held.map(Generation)));
            let owners = own.iter().filter(|verdict| matches!(verdict, Verdict::Ours | Verdict::Since(_))).count();
            prop_assert_eq!(owners, 1, "{:?}", own);
        }
    }
}
