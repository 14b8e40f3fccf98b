//! What a switch says: a message, an error, or not enough yet.
#![no_main]

use libfuzzer_sys::fuzz_target;
use roam_sdn::plane::ovs::is_message;

fuzz_target!(|data: &[u8]| {
    let _ = is_message(data);
});
