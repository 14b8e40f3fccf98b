use std::fs::File;

use proptest::prelude::*;

use super::*;
use crate::api::{GuestSpec, MacText, NetworkView};
use crate::engine::ModuleHash;
use crate::host::record::Standing;

/// A directory of its own, gone with it.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Self(std::env::temp_dir().join(format!("roam-registry-{}-{count}", std::process::id())))
    }

    fn layout(&self) -> Layout {
        Layout::make(&self.0.join("state"), &self.0.join("run")).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn record(number: u64) -> Record {
    let spec = GuestSpec::new(format!("guest-{number}").parse().unwrap(), ModuleHash::of(b"module"));
    let network = NetworkView {
        ip: Some("10.90.0.10/24".parse().unwrap()),
        ip6: None,
        mac: MacText([2, 0, 0, 0, 0, 1]),
        gateway: None,
        gateway6: None,
        tap: GuestId::new(number).tap(),
        mtu: 1500,
    };
    Record::new(GuestId::new(number), spec, network, 1)
}

fn damage(layout: &Layout) {
    let file = File::options().write(true).open(layout.database()).unwrap();
    file.set_len(file.metadata().unwrap().len() / 3).unwrap();
}

#[test]
fn records_outlive_the_daemon() {
    let scratch = Scratch::new();
    let registry = Registry::open(scratch.layout()).unwrap();
    registry.put(&record(1)).unwrap();
    registry.put(&record(2)).unwrap();
    let stopped = record(1).changed(|record| record.standing = Standing::Stopped);
    registry.put(&stopped).unwrap();
    registry.remove(GuestId::new(2)).unwrap();
    drop(registry);
    let registry = Registry::open(scratch.layout()).unwrap();
    assert_eq!(registry.records(), [stopped]);
    assert!(registry.set_aside().is_empty());
    assert!(!scratch.layout().guest(GuestId::new(2)).exists());
}

#[test]
fn a_damaged_database_is_set_aside_and_nothing_is_lost() {
    let scratch = Scratch::new();
    let registry = Registry::open(scratch.layout()).unwrap();
    (1..20).for_each(|number| registry.put(&record(number)).unwrap());
    damage(&scratch.layout());
    // While in use.
    registry.put(&record(20)).unwrap();
    assert_eq!((registry.records().len(), registry.set_aside().len()), (20, 1));
    drop(registry);
    // Between two daemons.
    damage(&scratch.layout());
    let registry = Registry::open(scratch.layout()).unwrap();
    assert_eq!((registry.records().len(), registry.set_aside().len()), (20, 2));
    fs::remove_file(scratch.layout().database()).unwrap();
    registry.probe().unwrap();
    drop(registry);
    fs::write(scratch.layout().database(), b"not a database").unwrap();
    assert_eq!(Registry::open(scratch.layout()).unwrap().records().len(), 20);
}

#[test]
fn a_record_without_its_file_gets_it_again() {
    let scratch = Scratch::new();
    let registry = Registry::open(scratch.layout()).unwrap();
    registry.put(&record(1)).unwrap();
    registry.put(&record(2)).unwrap();
    drop(registry);
    fs::write(scratch.layout().record(GuestId::new(1)), b"{\"version\":1,\"half").unwrap();
    fs::remove_dir_all(scratch.layout().guest(GuestId::new(2))).unwrap();
    let registry = Registry::open(scratch.layout()).unwrap();
    assert_eq!(registry.records(), [record(1), record(2)]);
    assert_eq!(read_record(&scratch.layout().record(GuestId::new(2))).unwrap(), record(2));
}

#[test]
fn the_format_of_a_later_roam_is_refused() {
    let scratch = Scratch::new();
    let registry = Registry::open(scratch.layout()).unwrap();
    registry.put(&Record { version: 2, ..record(1) }).unwrap();
    drop(registry);
    assert!(matches!(Registry::open(scratch.layout()), Err(RegistryError::Newer { found: 2, .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Whatever is cut off or overwritten, all records are there again.
    #[test]
    fn no_damage_loses_a_record(cut in 0.0..1.0f64, noise in any::<Option<(f64, [u8; 32])>>()) {
        let scratch = Scratch::new();
        let registry = Registry::open(scratch.layout()).unwrap();
        (1..6).for_each(|number| registry.put(&record(number)).unwrap());
        drop(registry);
        let path = scratch.layout().database();
        let mut bytes = fs::read(&path).unwrap();
        match noise {
            Some((at, noise)) => {
                let at = (at.abs().fract() * (bytes.len() - noise.len()) as f64) as usize;
                bytes[at..at + noise.len()].copy_from_slice(&noise);
            }
            None => bytes.truncate((bytes.len() as f64 * cut) as usize),
        }
        fs::write(&path, bytes).unwrap();
        let registry = Registry::open(scratch.layout()).unwrap();
        prop_assert_eq!(registry.records(), (1..6).map(record).collect::<Vec<_>>());
        registry.put(&record(6)).unwrap();
    }
}
