//! A guest's life: started at the first poll, ended when its main function returns.

use std::cell::Cell;
use std::fmt::Display;
use std::future::Future;

use roam_abi::LogLevel;

use crate::{executor, sys, task};

thread_local! {
    static STARTED: Cell<bool> = const { Cell::new(false) };
}

/// Exports what the host calls, with the `async fn` of that name as the guest's main function.
///
/// The function takes nothing and returns `()` or a `Result<(), E>` where `E: Display`. The guest ends when it returns:
/// with exit code 0, or 1 and a log line for an error.
///
/// ```
/// use roam_sdk::net::UdpSocket;
///
/// roam_sdk::main!(serve);
///
/// async fn serve() -> roam_sdk::Result<()> {
///     let socket = UdpSocket::bind(([0, 0, 0, 0], 7))?;
///     let mut bytes = [0; 1500];
///     loop {
///         let (len, from) = socket.recv_from(&mut bytes).await?;
///         socket.send_to(&bytes[..len], from).await?;
///     }
/// }
/// ```
#[macro_export]
macro_rules! main {
    ($main:path) => {
        const _: () = {
            #[cfg_attr(target_arch = "wasm32", unsafe(no_mangle))]
            extern "C" fn roam_abi_version() -> u32 {
                $crate::abi::VERSION
            }

            #[cfg_attr(target_arch = "wasm32", unsafe(no_mangle))]
            extern "C" fn roam_poll(now_ns: i64) -> i64 {
                $crate::poll(now_ns, $main)
            }

            let _ = (roam_abi_version, roam_poll);
        };
    };
}

/// One poll of the host; the first one starts `main`. For [`main!`](crate::main!).
#[doc(hidden)]
pub fn poll<F>(now_ns: i64, main: impl FnOnce() -> F) -> i64
where
    F: Future<Output: Outcome> + 'static,
{
    if !STARTED.replace(true) {
        std::panic::set_hook(Box::new(|panic| sys::log(LogLevel::Error, &panic.to_string())));
        let main = main();
        task::spawn(async move { sys::exit(main.await.exit_code()) });
    }
    executor::poll(now_ns)
}

/// What a main function may return.
#[doc(hidden)]
pub trait Outcome {
    fn exit_code(self) -> i32;
}

impl Outcome for () {
    fn exit_code(self) -> i32 {
        0
    }
}

impl<E: Display> Outcome for Result<(), E> {
    fn exit_code(self) -> i32 {
        match self {
            Ok(()) => 0,
            Err(error) => {
                crate::error!("{error}");
                1
            }
        }
    }
}
