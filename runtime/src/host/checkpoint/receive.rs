//! An image that comes to this host: whole, sound, and of a guest that this host can run.

use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::str::FromStr;

use futures_util::StreamExt;
use roam_netstack::Cidr;
use roam_snapshot::image::{Image, ImageDigest, ImageError, Meta};
use tokio::io::AsyncWriteExt;

use crate::api::{AddressFamily, CidrText, GuestSpec, RestoreRequest, SpecError};
use crate::engine::ModuleHash;
use crate::host::layout::{self, Layout};
use crate::host::migrate::{GuestOffer, OfferError};
use crate::host::shared::Shared;
use crate::host::{HostError, ModuleBytes};

/// A file without a name: it goes with the last who has it open.
pub(super) fn scratch(layout: &Layout) -> io::Result<File> {
    let path = layout::beside(&layout.images().join("image"));
    let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
}

/// Takes in an image's bytes, and checks all of it.
pub(super) async fn receive(shared: &Shared, mut bytes: ModuleBytes) -> Result<Image<File>, HostError> {
    let failed = || HostError::io("keeping an image");
    let mut file = tokio::fs::File::from_std(scratch(&shared.layout).map_err(failed())?);
    while let Some(piece) = bytes.next().await {
        let piece = piece.map_err(HostError::ImageCutOff)?;
        file.write_all(&piece).await.map_err(failed())?;
    }
    file.flush().await.map_err(failed())?;
    let file = file.into_std().await;
    let opened = tokio::task::spawn_blocking(move || Image::open(file)).await;
    let image = opened.map_err(|_ending| HostError::Closing)??;
    if let Some(parent) = image.meta().parent {
        return Err(HostError::ImageIncomplete { parent });
    }
    Ok(image)
}

/// The guest of an image, where it was.
pub fn guest_of(meta: &Meta) -> Result<GuestSpec, OfferError> {
    GuestOffer::decode(&meta.guest).map(|offer| offer.placed_spec())
}

/// What the image's guest is to be here.
pub(super) fn wanted(shared: &Shared, image: &Image<File>, request: &RestoreRequest) -> Result<GuestSpec, HostError> {
    let meta = image.meta();
    let (netstack, module) = (shared.modules.netstack(), ModuleHash(meta.module));
    meta.belongs_to(meta.module, netstack.0, roam_abi::VERSION)?;
    let mut spec = guest_of(meta).map_err(HostError::ImageGuest)?;
    if spec.module != module {
        return Err(ImageError::Code {
            what: "module",
            expected: ImageDigest(meta.module),
            found: ImageDigest(spec.module.0),
        }
        .into());
    }
    shared.modules.size(module).map_err(|error| match error {
        HostError::NoModule(digest) => HostError::NoModuleOfImage(digest),
        error => error,
    })?;
    if let Some(name) = &request.name {
        spec.name = name.clone();
    }
    let (ip, ip6) = (spec.ip, spec.ip6);
    spec.ip = address(request.ip.as_deref(), ip)?;
    spec.ip6 = address(request.ip6.as_deref(), ip6)?;
    if (spec.ip, spec.ip6) != (ip, ip6) {
        // Another place in the network has another.
        spec.mac = None;
    }
    Ok(spec)
}

/// The address that is asked for, with the prefix that was had where none is said; else the one that was had.
fn address<A: AddressFamily + Into<IpAddr>>(
    asked: Option<&str>,
    had: Option<CidrText<A>>,
) -> Result<Option<CidrText<A>>, HostError> {
    let Some(text) = asked else { return Ok(had) };
    let bare = had.and_then(|had| Some(CidrText(Cidr { address: A::from_str(text).ok()?, prefix: had.0.prefix })));
    match bare {
        Some(address) => Ok(Some(address)),
        None => CidrText::from_str(text).map(Some).map_err(|why| SpecError::Address(why).into()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn an_address_has_its_own_prefix_or_the_one_before() {
        let had: CidrText<Ipv4Addr> = "10.90.0.10/16".parse().unwrap();
        let text = |asked, had| address(asked, had).map(|address| address.map(|it| it.to_string()));
        assert_eq!(text(None, Some(had)).unwrap().as_deref(), Some("10.90.0.10/16"));
        assert_eq!(text(Some("10.90.0.11"), Some(had)).unwrap().as_deref(), Some("10.90.0.11/16"));
        assert_eq!(text(Some("10.90.0.11/24"), Some(had)).unwrap().as_deref(), Some("10.90.0.11/24"));
        assert_eq!(text(Some("10.90.0.11/24"), None).unwrap().as_deref(), Some("10.90.0.11/24"));
        for (asked, had) in [("10.90.0.11", None), ("fd90::1/64", Some(had)), ("", Some(had)), ("1.2.3.4/33", None)] {
            let error = text(Some(asked), had).unwrap_err();
            assert_eq!(error.code(), crate::api::ErrorCode::Invalid, "{error}");
        }
        assert_eq!(text(None, None).unwrap(), None);
    }
}
