use std::fs;
use std::path::Path;

use futures_util::StreamExt;

use super::*;
use crate::api::{Direction, MigrationReport};
use crate::engine::ModuleHash;
use crate::host::layout;

/// A directory that goes with the test.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("roam-migrations-{name}-{}", std::process::id()));
        layout::make_dir(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("migrations.jsonl")
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = layout::remove(&self.0);
    }
}

fn view(number: u64, guest: &str, direction: Direction) -> MigrationView {
    MigrationView {
        id: format!("{number:032x}"),
        guest: guest.parse().unwrap(),
        direction,
        from: "host-a".into(),
        to: "host-b".into(),
        plan: roam_snapshot::plan::PlanName::PreCopy,
        state: MigrationState::Running,
        phase: Phase::Initiate,
        began_ms: number,
        ended_ms: None,
        progress: Default::default(),
        reason: None,
        report: None,
    }
}

fn done(view: &mut MigrationView) {
    view.state = MigrationState::Done;
    view.report = Some(MigrationReport { blackout_us: 400, bytes_on_wire: 7, ..MigrationReport::default() });
}

fn ids(migrations: &Migrations) -> Vec<u64> {
    migrations.all().iter().map(|view| u64::from_str_radix(&view.id, 16).unwrap()).collect()
}

fn line(path: &Path) -> usize {
    fs::read_to_string(path).unwrap().lines().count()
}

#[test]
fn one_guest_goes_once_at_a_time() {
    let dir = Dir::new("once");
    let migrations = Migrations::open(dir.file());
    let first = migrations.begin(view(1, "kv", Direction::Outgoing)).unwrap();
    let again = migrations.begin(view(2, "kv", Direction::Outgoing)).err();
    assert!(matches!(again, Some(HostError::Migrating { id, .. }) if id == first.view().id));
    let other = migrations.begin(view(3, "web", Direction::Outgoing)).unwrap();
    let back = migrations.begin(view(4, "kv", Direction::Incoming)).unwrap();
    assert_eq!(ids(&migrations), [4, 3, 1]);
    let spec = crate::api::GuestSpec::new("kv".parse().unwrap(), ModuleHash([0; 32]));
    let network = serde_json::from_value(serde_json::json!({"mac": "02:00:00:00:00:01", "tap": "rt0"})).unwrap();
    let record = crate::host::record::Record::new(crate::host::record::GuestId::new(1), spec, network, 0);
    let mut guest = record.view(crate::api::GuestState::Running, 0, None);
    migrations.mark([&mut guest]);
    let brief = guest.migration.clone().unwrap();
    assert_eq!((brief.id, brief.direction, brief.other.as_str()), (first.view().id, Direction::Outgoing, "host-b"));
    first.finish(done);
    migrations.mark([&mut guest]);
    assert_eq!(guest.migration.as_ref().map(|brief| brief.other.as_str()), Some("host-a"));
    back.finish(done);
    migrations.mark([&mut guest]);
    assert_eq!(guest.migration, None);
    migrations.begin(view(5, "kv", Direction::Outgoing)).unwrap().finish(done);
    other.finish(done);
    assert_eq!(ids(&migrations), [5, 4, 3, 1], "by when they began");
    assert!(migrations.all().iter().all(|view| view.is_over() && view.ended_ms.is_some()));
}

#[test]
fn it_can_be_cancelled_until_the_target_has_it() {
    let dir = Dir::new("cancel");
    let migrations = Migrations::open(dir.file());
    let entry = migrations.begin(view(1, "kv", Direction::Outgoing)).unwrap();
    let id = entry.view().id;
    let refused = |reason| matches!(reason, Err(HostError::NotCancellable { .. }));
    assert!(matches!(migrations.cancel("nothing"), Err(HostError::NoMigration(_))));
    assert!(!entry.is_cancelled());
    entry.update(|view| view.phase = Phase::Complete);
    assert!(refused(migrations.cancel(&id)));
    entry.update(|view| (view.phase, view.state) = (Phase::Failed, MigrationState::InDoubt));
    assert!(refused(migrations.cancel(&id)) && !entry.is_cancelled());
    entry.update(|view| (view.phase, view.state) = (Phase::Execute, MigrationState::Running));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let cancelled = entry.cancelled();
    assert_eq!(migrations.cancel(&id).unwrap().state, MigrationState::Running);
    assert!(entry.is_cancelled());
    assert!(runtime.block_on(cancelled));
    migrations.cancel(&id).unwrap();
    entry.finish(|view| view.state = MigrationState::Failed);
    assert!(refused(migrations.cancel(&id)));
}

#[test]
fn what_is_over_outlives_the_daemon() {
    let dir = Dir::new("history");
    let migrations = Migrations::open(dir.file());
    for number in 1..=3 {
        migrations.begin(view(number, "kv", Direction::Outgoing)).unwrap().finish(done);
    }
    let before = migrations.all();
    assert_eq!(Migrations::open(dir.file()).all(), before);
    // A crash in the middle of a line, and somebody who meddled.
    let mut text = fs::read_to_string(dir.file()).unwrap();
    text.insert_str(0, "not json\n");
    text.truncate(text.len() - 10);
    fs::write(dir.file(), text).unwrap();
    let migrations = Migrations::open(dir.file());
    assert_eq!(ids(&migrations), [2, 1]);
    migrations.begin(view(4, "kv", Direction::Outgoing)).unwrap().finish(done);
    assert_eq!(line(&dir.file()), 3, "it is written anew");
    assert_eq!(ids(&Migrations::open(dir.file())), [4, 2, 1]);
    fs::write(dir.file(), [0xff; 100]).unwrap();
    assert_eq!(ids(&Migrations::open(dir.file())), [0; 0]);
}

#[test]
fn the_oldest_are_forgotten() {
    let dir = Dir::new("bound");
    let migrations = Migrations::open(dir.file());
    let count = 2 * KEPT_MAX as u64 + 10;
    for number in 0..count {
        migrations.begin(view(number, "kv", Direction::Incoming)).unwrap().finish(done);
    }
    assert_eq!(migrations.all().len(), KEPT_MAX);
    assert_eq!(ids(&migrations)[KEPT_MAX - 1], count - KEPT_MAX as u64);
    assert_eq!(line(&dir.file()), KEPT_MAX + 9);
    assert_eq!(Migrations::open(dir.file()).all(), migrations.all());
}

#[test]
fn who_follows_sees_the_first_and_the_last() {
    let dir = Dir::new("follow");
    let migrations = Migrations::open(dir.file());
    let entry = migrations.begin(view(1, "kv", Direction::Outgoing)).unwrap();
    let id = entry.view().id;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let mut views = migrations.follow(&id).unwrap();
        assert_eq!(views.next().await.unwrap().phase, Phase::Initiate);
        for round in 0..1000 {
            entry.update(|view| view.progress.round = round);
        }
        assert_eq!(views.next().await.unwrap().progress.round, 999, "those in between are left out");
        entry.update(|view| view.phase = Phase::Complete);
        entry.finish(done);
        assert_eq!(views.next().await.unwrap().state, MigrationState::Done);
        assert_eq!(views.next().await, None);
        let again: Vec<_> = migrations.follow(&id).unwrap().collect().await;
        assert_eq!(again, [migrations.find(&id).unwrap()]);
        assert!(migrations.follow("nothing").is_err());
    });
}

#[test]
fn an_engine_that_is_gone_has_failed_unless_in_doubt() {
    let dir = Dir::new("gone");
    let migrations = Migrations::open(dir.file());
    drop(migrations.begin(view(1, "kv", Direction::Outgoing)).unwrap());
    let failed = migrations.all().remove(0);
    assert_eq!((failed.state, failed.reason.unwrap().code.as_str()), (MigrationState::Failed, "internal"));
    let entry = migrations.begin(view(2, "kv", Direction::Outgoing)).unwrap();
    entry.update(|view| view.state = MigrationState::InDoubt);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let mut views = migrations.follow(&entry.view().id).unwrap();
        assert_eq!(views.next().await.unwrap().state, MigrationState::InDoubt);
        drop(entry);
        assert_eq!(views.next().await, None);
    });
    assert_eq!(ids(&migrations), [1]);
    // The next daemon takes it up and settles it.
    let entry = Migrations::open(dir.file()).begin(view(2, "kv", Direction::Outgoing)).unwrap();
    entry.finish(done);
}

#[test]
fn they_are_counted() {
    let dir = Dir::new("figures");
    let migrations = Migrations::open(dir.file());
    migrations.begin(view(1, "kv", Direction::Outgoing)).unwrap().finish(done);
    let _entry = migrations.begin(view(2, "kv", Direction::Incoming)).unwrap();
    let mut registry = prometheus_client::registry::Registry::default();
    migrations.register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    for line in [
        "roam_migrations_total{direction=\"outgoing\",state=\"done\"} 1",
        "roam_migrations_underway{direction=\"incoming\",state=\"running\"} 1",
        "roam_migration_wire_bytes_total{direction=\"outgoing\"} 7",
        "roam_migration_blackout_seconds_bucket{le=\"0.0005\"} 1",
    ] {
        assert!(text.lines().any(|there| there == line), "{line} in\n{text}");
    }
}
