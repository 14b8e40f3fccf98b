//! Why a host refuses or fails.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use roam_sdn::plane::PlaneError;
use roam_snapshot::image::{ImageDigest, ImageError};

use super::addresses::AddressError;
use super::checkpoint::{PlaceError, TakeError};
use super::device::DeviceError;
use super::layout::comes_from_full;
use super::migrate::OfferError;
use super::registry::RegistryError;
use crate::api::client::ClientError;
use crate::api::{ErrorCode, GuestName, NameError, SpecError};
use crate::cert::CertError;
use crate::engine::{LoadError, MODULE_BYTES_MAX, ModuleHash};
use crate::jail::CgroupError;
use crate::worker::{ControlError, SpawnError};

/// Why a request to a host did not succeed. The text is for the peer; sources stay in the daemon's log.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// There is no such guest.
    #[error("there is no guest `{0}`")]
    NoGuest(GuestName),
    /// The specification is not possible anywhere.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// Its place in the network is no possible one.
    #[error(transparent)]
    Network(#[from] roam_netstack::ConfigError),
    /// Its place in the network is not to be had here.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// There is no such module.
    #[error("there is no module {0}; put it there first (`roam modules put`)")]
    NoModule(ModuleHash),
    /// The module is needed.
    #[error("module {digest} is in use by {}", names(.guests))]
    ModuleInUse {
        /// Which.
        digest: ModuleHash,
        /// By whom.
        guests: Vec<GuestName>,
    },
    /// It is nothing this host runs.
    #[error("{0}")]
    ModuleRefused(String),
    /// It is too long.
    #[error("a module is at most {MODULE_BYTES_MAX} bytes")]
    ModuleTooBig,
    /// The bytes are not those of that digest.
    #[error("these bytes are module {found}, not {expected}")]
    ModuleDigest {
        /// What they were said to be.
        expected: ModuleHash,
        /// What they are.
        found: ModuleHash,
    },
    /// The upload ended early.
    #[error("the module did not arrive whole")]
    ModuleCutOff(#[source] io::Error),
    /// The file is not what was put there.
    #[error("the file of module {0} is damaged; delete the module and put it there again")]
    ModuleDamaged(ModuleHash),
    /// The guest is being checkpointed.
    #[error("a checkpoint of guest `{0}` is being taken; try again when it is over")]
    Checkpointing(GuestName),
    /// There is no image of it.
    #[error("guest `{name}` goes on, and there is no image of it: {}", in_full(.source.as_ref()))]
    NotCheckpointed {
        /// Which.
        name: GuestName,
        /// Why.
        #[source]
        source: Box<TakeError>,
    },
    /// Nobody waits for that word.
    #[error("guest `{name}` does not wait for image {digest} to be confirmed: it goes on, or has ended otherwise")]
    NoCheckpoint {
        /// Which.
        name: GuestName,
        /// The image.
        digest: String,
    },
    /// It is no sound image, or not one for this host.
    #[error("{}", in_full(.0))]
    Image(#[source] ImageError),
    /// The upload ended early.
    #[error("the image did not arrive whole")]
    ImageCutOff(#[source] io::Error),
    /// It has only what changed.
    #[error("the image has only what changed since image {parent}; restore the directory that has them all")]
    ImageIncomplete {
        /// The one it follows.
        parent: ImageDigest,
    },
    /// What it says of its guest is not understood.
    #[error("the image describes its guest in a way this host does not understand; it was taken by another version")]
    ImageGuest(#[source] OfferError),
    /// Its module is not here.
    #[error(
        "the image's guest is of module {0}, which is not here; give it along (`roam restore --module FILE`), or put it \
         there first (`roam modules put`)"
    )]
    NoModuleOfImage(ModuleHash),
    /// There is no room for its memory.
    #[error("the guest has {bytes} bytes of memory, and this host has {free_bytes} free")]
    NoRoom {
        /// What it has.
        bytes: u64,
        /// What there is.
        free_bytes: u64,
    },
    /// It could not be made a guest.
    #[error("guest `{name}` could not be restored: {}", in_full(.source.as_ref()))]
    NotRestored {
        /// Which.
        name: GuestName,
        /// Why.
        #[source]
        source: Box<PlaceError>,
    },
    /// There are as many guests as there may be.
    #[error("this host has {0} guests, and no more are taken; if that is few, raise its limit of open files")]
    TooManyGuests(usize),
    /// The guest runs and was not to be ended.
    #[error("guest `{0}` runs; stop it first, or force it")]
    Running(GuestName),
    /// The guest does not run.
    #[error("guest `{0}` does not run")]
    NotRunning(GuestName),
    /// The guest was stopped or deleted while it was being started.
    #[error("guest `{0}` was stopped while it was being started")]
    Overtaken(GuestName),
    /// The guest did not come up.
    #[error("guest `{name}` did not start: {reason}")]
    StartFailed {
        /// Which.
        name: GuestName,
        /// Why, in one sentence.
        reason: String,
    },
    /// The worker cannot be asked.
    #[error("guest `{name}` does not answer: {source}")]
    NoAnswer {
        /// Which.
        name: GuestName,
        /// What happened.
        #[source]
        source: ControlError,
    },
    /// The worker cannot be ended.
    #[error("the worker of guest `{name}` (process {pid}) is still there {after:?} after it was killed")]
    NotEnded {
        /// Which.
        name: GuestName,
        /// Its process.
        pid: u32,
        /// How long it was waited for.
        after: Duration,
    },
    /// There is no room.
    #[error("the disk is full: {0}")]
    DiskFull(String),
    /// The record cannot be kept.
    #[error(transparent)]
    Registry(RegistryError),
    /// A file cannot be read or written.
    #[error("{doing} failed")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The network device cannot be had.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The worker's limits cannot be set.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// A worker did not come up.
    #[error(transparent)]
    Spawn(SpawnError),
    /// A module could not be compiled.
    #[error("the module could not be compiled: {0}")]
    Compile(#[source] SpawnError),
    /// The engine or its cache fails.
    #[error(transparent)]
    Engine(LoadError),
    /// The controller does not grant the guest's address.
    #[error("the address of guest `{guest}` is not to be had: {message}")]
    NotGranted {
        /// Whose.
        guest: GuestName,
        /// The controller's code.
        code: ErrorCode,
        /// Its words.
        message: String,
    },
    /// The controller cannot be asked.
    #[error("the address of guest `{guest}` cannot be claimed; new guests need the controller: {source}")]
    NoController {
        /// Whose.
        guest: GuestName,
        /// Why.
        #[source]
        source: Box<ClientError>,
    },
    /// Its address became another host's.
    #[error("guest `{guest}` is fenced: {reason}")]
    Fenced {
        /// Which.
        guest: GuestName,
        /// Whose it is.
        reason: String,
    },
    /// Whether another host has it cannot be found out.
    #[error(
        "guest `{guest}` may be `{to}`'s, which does not answer; it is started as soon as `{to}` says that it never had it. If \
         `{to}` is gone for good, delete the guest and deploy it again"
    )]
    InDoubt {
        /// Which.
        guest: GuestName,
        /// Who may have it.
        to: GuestName,
    },
    /// The target is not known.
    #[error(
        "it is not known where host `{0}` takes migrations; `roam route hosts` lists those that do, or say --at ADDRESS:PORT"
    )]
    NoTarget(GuestName),
    /// There is no such migration.
    #[error("there is no migration `{0}`; `roam migrations` lists those that are known")]
    NoMigration(String),
    /// The guest is being moved already.
    #[error("guest `{name}` is being moved already, by migration {id}; wait for it, or cancel it")]
    Migrating {
        /// Which.
        name: GuestName,
        /// By which migration.
        id: String,
    },
    /// The guest is to go where it is.
    #[error("guest `{0}` is on this host already")]
    AlreadyHere(GuestName),
    /// The migration cannot be cancelled any more.
    #[error("migration {id} cannot be cancelled: {reason}")]
    NotCancellable {
        /// Which.
        id: String,
        /// How it stands.
        reason: &'static str,
    },
    /// This host has no way to other hosts.
    #[error("this host takes part in no migrations; start it with --tls-dir, by which hosts prove themselves")]
    NoMigrations,
    /// The host goes down.
    #[error("the host is going down")]
    Closing,
}

fn names(guests: &[GuestName]) -> String {
    let quoted: Vec<_> = guests.iter().map(|guest| format!("`{guest}`")).collect();
    quoted.join(", ")
}

impl HostError {
    pub(super) fn io(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| match super::layout::is_full(&source) {
            true => Self::DiskFull(doing.into()),
            false => Self::Io { doing, source },
        }
    }

    pub(super) fn from_take(name: &GuestName) -> impl FnOnce(TakeError) -> Self + '_ {
        |source| match comes_from_full(&source) {
            true => Self::DiskFull("writing an image".into()),
            false => Self::NotCheckpointed { name: name.clone(), source: Box::new(source) },
        }
    }

    pub(super) fn from_place(name: GuestName, source: PlaceError) -> Self {
        match comes_from_full(&source) {
            true => Self::DiskFull("restoring a guest".into()),
            false => Self::NotRestored { name, source: Box::new(source) },
        }
    }

    /// Its stable name.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::NoGuest(_)
            | Self::NoModule(_)
            | Self::NoMigration(_)
            | Self::NoModuleOfImage(_)
            | Self::NoCheckpoint { .. } => ErrorCode::NotFound,
            Self::Spec(_)
            | Self::Network(_)
            | Self::ModuleRefused(_)
            | Self::ModuleDigest { .. }
            | Self::Image(_)
            | Self::ImageIncomplete { .. }
            | Self::ImageGuest(_)
            | Self::NoMigrations
            | Self::NoTarget(_) => ErrorCode::Invalid,
            Self::Address(error) => error.code(),
            Self::ModuleTooBig => ErrorCode::TooLarge,
            Self::ModuleCutOff(_) | Self::ImageCutOff(_) => ErrorCode::BadRequest,
            Self::ModuleInUse { .. }
            | Self::Running(_)
            | Self::NotRunning(_)
            | Self::Overtaken(_)
            | Self::Migrating { .. }
            | Self::Checkpointing(_)
            | Self::AlreadyHere(_)
            | Self::InDoubt { .. }
            | Self::NotCancellable { .. } => ErrorCode::Conflict,
            Self::StartFailed { .. } | Self::NotRestored { .. } => ErrorCode::StartFailed,
            Self::NoRoom { .. } => ErrorCode::Unavailable,
            Self::NotGranted { code, .. } => *code,
            Self::NoController { .. } => ErrorCode::Unavailable,
            Self::Fenced { .. } => ErrorCode::Fenced,
            Self::NoAnswer { .. } | Self::Closing | Self::TooManyGuests(_) => ErrorCode::Unavailable,
            Self::DiskFull(_) => ErrorCode::DiskFull,
            Self::ModuleDamaged(_)
            | Self::NotEnded { .. }
            | Self::Registry(_)
            | Self::NotCheckpointed { .. }
            | Self::Io { .. }
            | Self::Device(_)
            | Self::Cgroup(_)
            | Self::Spawn(_)
            | Self::Compile(_)
            | Self::Engine(_) => ErrorCode::Internal,
        }
    }
}

impl From<RegistryError> for HostError {
    fn from(error: RegistryError) -> Self {
        if comes_from_full(&error) || matches!(error, RegistryError::Full(_)) {
            return Self::DiskFull(error.to_string());
        }
        if matches!(error, RegistryError::Closed) {
            return Self::Closing;
        }
        Self::Registry(error)
    }
}

impl From<ImageError> for HostError {
    fn from(error: ImageError) -> Self {
        match error {
            ImageError::Io(source) => Self::io("reading an image")(source),
            error => Self::Image(error),
        }
    }
}

impl From<SpawnError> for HostError {
    fn from(error: SpawnError) -> Self {
        if comes_from_full(&error) { Self::DiskFull("starting a worker".into()) } else { Self::Spawn(error) }
    }
}

impl From<LoadError> for HostError {
    fn from(error: LoadError) -> Self {
        if comes_from_full(&error) { Self::DiskFull("keeping a compiled module".into()) } else { Self::Engine(error) }
    }
}

/// An error with all it came from, in one line.
pub(super) fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let cause = error.to_string();
        // Transparent errors say what their source says.
        if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
        next = error.source();
    }
    text
}

/// Why a host could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another daemon has this state directory.
    #[error("another daemon runs on {0}; stop it, or choose another --state-dir")]
    Taken(PathBuf),
    /// A directory cannot be made or used.
    #[error("{path} cannot be used")]
    Directory {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The state cannot be read.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// More guests are on record than this process can look after.
    #[error(
        "{guests} guests are on record, and the limit of open files allows for {guests_max}; raise it (`ulimit -n`, \
         LimitNOFILE= of a unit) and start again; they go on serving meanwhile"
    )]
    TooManyGuests {
        /// On record.
        guests: usize,
        /// As many as there may be.
        guests_max: usize,
    },
    /// The network devices cannot be reached.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A host of an overlay needs a name there.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The data plane cannot be used.
    #[error(transparent)]
    Plane(#[from] PlaneError),
    /// The certificate that it proves itself by to other hosts cannot be used.
    #[error("the certificates for migrations cannot be used")]
    Certificates(#[from] CertError),
    /// Where it is to take migrations is not to be had.
    #[error("migrations cannot be taken at {listen}; choose another address with --migrate-listen")]
    MigrationPort {
        /// Where.
        listen: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The netstack cannot be compiled, or the cache not be used.
    #[error("the modules cannot be opened: {0}")]
    Modules(#[source] Box<HostError>),
    /// The operating system refuses what a daemon needs.
    #[error("{doing} failed")]
    System {
        /// What was tried.
        doing: &'static str,
        /// What it said.
        #[source]
        source: io::Error,
    },
}
