//! `roam restore`: an image becomes a guest.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use roam_snapshot::image::file::merge;
use roam_snapshot::image::peek;
use serde::Serialize;

use super::config::Config;
use super::exit::{self, Unknown, Usage};
use super::target::{HostFlags, Target, Targets};
use super::wanted::ModuleFile;
use super::{block_on, checkpoint, deploy, print};
use crate::api::{GuestName, GuestView, RestoreRequest};
use crate::engine::ModuleHash;
use crate::host::guest_of;

/// Make a guest of an image, which goes on where it stood.
///
/// All of the image is checked first; what is wrong with it is said, and nothing is left behind. Its random state is new
/// each time. With another address it is a clone: its connections are reset for it, and it says nothing of that to their
/// other ends, which may be the original's; what listens goes on listening.
#[derive(Debug, clap::Args)]
#[command(after_help = exit::HELP)]
pub(super) struct Arguments {
    /// The image; or a directory of them, of which the newest is taken that rests on none that is missing.
    image: PathBuf,
    /// What the guest is called [default: as in the image].
    #[arg(long)]
    name: Option<GuestName>,
    /// IPv4 address, without a prefix that of the image's [default: as in the image].
    #[arg(long, value_name = "ADDRESS[/PREFIX]")]
    ip: Option<String>,
    /// IPv6 address, without a prefix that of the image's [default: as in the image].
    #[arg(long, value_name = "ADDRESS[/PREFIX]")]
    ip6: Option<String>,
    /// The guest's module, for a host that may not have it.
    #[arg(long, value_name = "FILE")]
    module: Option<PathBuf>,
    #[command(flatten)]
    host: HostFlags,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What is printed of a restored guest.
#[derive(Serialize)]
struct Report<'a> {
    done: &'static str,
    host: &'a str,
    guest: &'a GuestView,
}

pub(super) fn run(arguments: Arguments, config: &Config) -> Result<ExitCode> {
    let target = Targets::new(&arguments.host, config).one()?;
    let image = Single::of(&arguments.image)?;
    let module = arguments.module.as_deref().map(ModuleFile::read).transpose()?;
    if let Some(module) = module.as_ref().filter(|module| module.digest != image.module) {
        let (path, wanted) = (module.path.display(), image.module);
        return Err(Usage(format!("{path} is module {}; the image's guest is of {wanted}", module.digest)).into());
    }
    block_on(async {
        bring_module(&target, image.module, module.as_ref()).await?;
        let guest = upload(&target, &arguments, image).await?;
        let report = Report { done: "restored", host: &target.name, guest: &guest };
        if arguments.json {
            print::json_line(&report)?;
        } else {
            let network = &guest.network;
            let addresses = [network.ip.map(|ip| ip.to_string()), network.ip6.map(|ip| ip.to_string())];
            let addresses: Vec<String> = addresses.into_iter().flatten().collect();
            print::line(&format!(
                "{} serves again on {} at {}",
                guest.spec.name,
                target.name,
                addresses.join(" and ")
            ))?;
        }
        Ok(ExitCode::SUCCESS)
    })
}

async fn bring_module(target: &Target, wanted: ModuleHash, module: Option<&ModuleFile>) -> Result<()> {
    if target.client.has_module(wanted).await? {
        return Ok(());
    }
    match module {
        Some(module) => deploy::ship(&target.client, module).await,
        None => {
            let host = &target.name;
            Err(Unknown(format!(
                "host {host} does not have the guest's module {wanted}; give it along with --module FILE, or put it there \
                 first (`roam modules put`)"
            ))
            .into())
        }
    }
}

async fn upload(target: &Target, arguments: &Arguments, image: Single) -> Result<GuestView> {
    let request = RestoreRequest { name: arguments.name.clone(), ip: arguments.ip.clone(), ip6: arguments.ip6.clone() };
    let name = arguments.name.as_ref().map_or(image.name, ToString::to_string);
    let bar = print::bar(format!("restoring {name}"), image.file.metadata().map_or(0, |metadata| metadata.len()));
    let file = tokio::fs::File::from_std(image.file);
    Ok(target.client.restore(&request, file, bar.position()).await?)
}

/// An image that has everything, in one file.
struct Single {
    file: File,
    /// Its guest's name, as far as that is understood here.
    name: String,
    module: ModuleHash,
}

impl Single {
    /// Of a file, or the newest of a directory. What rests on others is merged with them.
    fn of(path: &Path) -> Result<Self> {
        let found = match path.is_dir() {
            false => path.to_owned(),
            true => match checkpoint::newest(path)? {
                Some(chain) => chain.newest().to_owned(),
                None => return Err(Unknown(format!("there is no image in {} that is whole", path.display())).into()),
            },
        };
        let shown = || format!("cannot restore {}", found.display());
        let mut file = File::open(&found).with_context(shown)?;
        let (meta, _) = peek(&mut file).with_context(shown)?;
        let name = guest_of(&meta).map_or_else(|_| "a guest".to_owned(), |spec| spec.name.to_string());
        if meta.parent.is_some() {
            file = merged(&found)?;
        }
        std::io::Seek::rewind(&mut file).with_context(shown)?;
        Ok(Self { file, name, module: ModuleHash(meta.module) })
    }
}

/// A file without a name that has all of it.
fn merged(newest: &Path) -> Result<File> {
    let path = std::env::temp_dir().join(format!("roam-restore-{}.snap", std::process::id()));
    merge(newest, &path)?;
    let file = File::open(&path);
    let _ = fs::remove_file(&path);
    file.with_context(|| format!("cannot read {}", path.display()))
}
