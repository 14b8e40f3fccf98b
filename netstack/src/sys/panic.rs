//! A panic leaves its message where the host can read it, then traps.

use core::{
    arch::wasm32::unreachable,
    fmt::{self, Write},
    panic::PanicInfo,
    ptr::addr_of_mut,
};

/// The longest message kept.
const MESSAGE_BYTES_MAX: usize = 512;

/// The last message: its length, then its text.
#[repr(C)]
struct Message {
    len: u32,
    text: [u8; MESSAGE_BYTES_MAX],
}

static mut MESSAGE: Message = Message { len: 0, text: [0; MESSAGE_BYTES_MAX] };

/// Where the message is: a `u32` length, then UTF-8.
pub(super) fn address() -> u32 {
    addr_of_mut!(MESSAGE) as u32
}

impl Write for Message {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        let start = (self.len as usize).min(MESSAGE_BYTES_MAX);
        let mut len = piece.len().min(MESSAGE_BYTES_MAX - start);
        while !piece.is_char_boundary(len) {
            len -= 1;
        }
        if let (Some(room), Some(bytes)) = (self.text.get_mut(start..start + len), piece.as_bytes().get(..len)) {
            room.copy_from_slice(bytes);
            self.len = (start + len) as u32;
        }
        Ok(())
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    // SAFETY: the module has one thread and is about to end; nothing else refers to the message.
    let message = unsafe { &mut *addr_of_mut!(MESSAGE) };
    message.len = 0;
    // Writing to a buffer that cuts what is too long cannot fail.
    let _ = write!(message, "{info}");
    unreachable()
}
