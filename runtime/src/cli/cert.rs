//! `roam cert`: the certificates that hosts and operators prove themselves by.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Subcommand;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{print, units};
use crate::cert::{Authority, Identity, Issue, Role};

/// Make and show certificates.
///
/// A private authority signs for each host and each operator what it may do. Exit codes: 0 done; 1 it failed;
/// 2 usage.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make an authority: ca.pem, which everyone trusts, and ca.key, which nobody else may have.
    Init(Init),
    /// Make a certificate and its key.
    Issue(IssueFlags),
    /// Say what a certificate says. Whether it is true is not checked.
    Show(Show),
}

#[derive(Debug, clap::Args)]
struct Init {
    /// Where to put it.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// What it is called.
    #[arg(long, default_value = "roam-authority")]
    name: String,
    /// How long it is good for.
    #[arg(long, default_value = "3650d", value_parser = units::duration, value_name = "TIME")]
    valid: Duration,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct IssueFlags {
    /// Whom for: the host's or operator's name.
    name: String,
    /// Where the authority is.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// What the holder may do: an operator everything; a host what hosts need of each other, and be a server.
    #[arg(long)]
    role: Role,
    /// A further name or address by which the host is reached; may be repeated.
    #[arg(long, value_name = "ADDRESS_OR_NAME")]
    san: Vec<String>,
    /// How long it is good for.
    #[arg(long, default_value = "365d", value_parser = units::duration, value_name = "TIME")]
    valid: Duration,
    /// Write ca.pem, ROLE.pem and ROLE.key into this directory, ready as its holder's --tls-dir
    /// [default: NAME.pem and NAME.key beside the authority].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct Show {
    /// The certificate, PEM.
    file: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What is printed.
#[derive(Serialize)]
struct Report {
    certificate: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<PathBuf>,
    #[serde(flatten)]
    identity: Identity,
    valid_now: bool,
}

pub(super) fn run(arguments: Arguments) -> Result<ExitCode> {
    match arguments.command {
        Command::Init(init) => {
            Authority::create(&init.dir, &init.name, init.valid)?;
            report(&init.dir.join("ca.pem"), Some(init.dir.join("ca.key")), init.json)?;
        }
        Command::Issue(flags) => issue(flags)?,
        Command::Show(show) => report(&show.file, None, show.json)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn issue(flags: IssueFlags) -> Result<()> {
    let authority = Authority::open(&flags.dir)
        .with_context(|| format!("no authority in {}; `roam cert init --dir` makes one", flags.dir.display()))?;
    let issue = Issue { name: flags.name.clone(), role: flags.role, sans: flags.san, valid: flags.valid };
    let issued = authority.issue(&issue)?;
    let (certificate, key) = match &flags.out {
        Some(out) => issued.write_tls_dir(out, &authority, flags.role)?,
        None => issued.write(&flags.dir, &flags.name)?,
    };
    report(&certificate, Some(key), flags.json)
}

fn report(certificate: &Path, key: Option<PathBuf>, json: bool) -> Result<()> {
    let identity = Identity::of_file(certificate)?;
    let valid_now = identity.is_valid_at(OffsetDateTime::now_utc());
    let report = Report { certificate: certificate.to_owned(), key, identity, valid_now };
    if json { print::json(&report) } else { print::text(&show(&report)?) }
}

fn show(report: &Report) -> Result<String> {
    let Report { certificate, key, identity, valid_now } = report;
    let role = match (identity.role, identity.authority) {
        (_, true) => "authority",
        (Some(role), false) => role.as_str(),
        (None, false) => "none",
    };
    let mut rows = vec![("certificate", certificate.display().to_string())];
    rows.extend(key.iter().map(|key| ("key", key.display().to_string())));
    rows.extend([("name", print::plain(&identity.name)), ("role", role.to_owned())]);
    if !identity.sans.is_empty() {
        rows.push(("reached by", print::plain(&identity.sans.join(", "))));
    }
    let (from, to) = (date(identity.not_before_s)?, date(identity.not_after_s)?);
    let remark = if *valid_now { "" } else { "  (not valid now)" };
    rows.push(("valid", format!("{from} to {to}{remark}")));
    Ok(rows.into_iter().map(|(name, value)| format!("{name:<12} {value}\n")).collect())
}

fn date(unix_s: i64) -> Result<String> {
    Ok(OffsetDateTime::from_unix_timestamp(unix_s)?.format(&Rfc3339)?)
}
