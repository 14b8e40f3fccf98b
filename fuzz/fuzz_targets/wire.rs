//! What another host says in a migration: messages and pages, and what both sides make of them in any order.
#![no_main]

use libfuzzer_sys::fuzz_target;
use roam_snapshot::protocol::target::{Target, TargetEvent};
use roam_snapshot::protocol::wire::{Kind, PREFIX_BYTES, Prefix, decode, decode_pages, encode, unpack};

fuzz_target!(|data: &[u8]| {
    let (mut rest, mut now_us) = (data, 0);
    let mut target = Target::new(now_us);
    while let Some((prefix, after)) = rest.split_first_chunk::<PREFIX_BYTES>() {
        let Ok(prefix) = Prefix::parse(*prefix) else { return };
        let Some(body) = after.get(..prefix.body_bytes) else { return };
        rest = &after[prefix.body_bytes..];
        match prefix.kind {
            Kind::Pages => {
                let Ok((header, data)) = decode_pages(body) else { return };
                let _ = unpack(&header, data);
            }
            Kind::Message => {
                let Ok(message) = decode(body) else { return };
                now_us += 1;
                // What was understood is said the same way.
                assert_eq!(decode(&encode(&message)[PREFIX_BYTES..]).ok(), Some(message.clone()));
                target.on(TargetEvent::Received(message), now_us);
            }
        }
    }
});
