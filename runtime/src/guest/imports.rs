//! The imports of module `roam`: socket calls, clock, randomness, log, arguments.
//!
//! A socket call is one call into the netstack, which answers with a slot in its own memory, and one copy between
//! that slot and the guest's memory. Every pointer and length of a guest is checked by that copy.

use std::sync::Arc;

use roam_abi::{ADDRESS_BYTES, CLOCK_MONOTONIC, CLOCK_REALTIME, Errno, Event, LogLevel, MODULE, limits};
use wasmtime::{Caller, Linker, Memory, Result, TypedFunc};

use super::stack::Stack;
use super::wasi;
use super::world::{Exit, World};
use crate::sys::memory::copy;

const NAMES: [&str; 22] = [
    "clock",
    "random",
    "log",
    "exit",
    "arg",
    "env",
    "udp_open",
    "icmp_open",
    "send_to",
    "recv_from",
    "tcp_listen",
    "accept",
    "tcp_connect",
    "send",
    "recv",
    "shutdown",
    "close",
    "abort",
    "set_option",
    "local_addr",
    "peer_addr",
    "ready",
];

/// Whether some guest may import this.
pub(crate) fn is_known_import(module: &str, name: &str) -> bool {
    match module {
        MODULE => NAMES.contains(&name),
        wasi::MODULE => wasi::is_known(name),
        _ => false,
    }
}

/// Defines them all. `stack` is the guest's own netstack.
pub(super) fn define(linker: &mut Linker<World>, stack: &Arc<Stack>) -> Result<()> {
    define_world(linker)?;
    define_open(linker, stack)?;
    define_datagrams(linker, stack)?;
    define_streams(linker, stack)?;
    define_handles(linker, stack)
}

type Call<'a> = Caller<'a, World>;

fn define_world(linker: &mut Linker<World>) -> Result<()> {
    linker.func_wrap(MODULE, "clock", |caller: Call<'_>, id: u32| -> i64 {
        match id {
            CLOCK_REALTIME => caller.data().realtime_ns(),
            CLOCK_MONOTONIC => caller.data().monotonic_ns(),
            _ => i64::from(Errno::INVAL.to_result()),
        }
    })?;
    linker.func_wrap(MODULE, "random", |mut caller: Call<'_>, ptr: u32, len: u32| -> i32 {
        if len as usize > limits::RANDOM_BYTES_MAX {
            return Errno::INVAL.to_result();
        }
        with_bytes(&mut caller, ptr, len, |bytes, world| world.random_fill(bytes))
    })?;
    linker.func_wrap(MODULE, "log", |mut caller: Call<'_>, level: u32, ptr: u32, len: u32| -> i32 {
        let Some(level) = LogLevel::from_raw(level) else { return Errno::INVAL.to_result() };
        with_bytes(&mut caller, ptr, len, |bytes, world| world.log(level, bytes))
    })?;
    linker.func_wrap(MODULE, "exit", |code: i32| -> Result<()> { Err(wasmtime::Error::new(Exit(code))) })?;
    linker.func_wrap(MODULE, "arg", |mut caller: Call<'_>, index: u32, ptr: u32, cap: u32| -> i32 {
        entry(&mut caller, |world| &world.args, index, ptr, cap)
    })?;
    linker.func_wrap(MODULE, "env", |mut caller: Call<'_>, index: u32, ptr: u32, cap: u32| -> i32 {
        entry(&mut caller, |world| &world.env, index, ptr, cap)
    })?;
    Ok(())
}

fn define_open(linker: &mut Linker<World>, stack: &Arc<Stack>) -> Result<()> {
    let s = stack.clone();
    linker.func_wrap(MODULE, "udp_open", move |mut caller: Call<'_>, addr: u32, rx: u32, tx: u32| {
        with_address_in(&s, &mut caller, addr, &s.udp_open, (rx, tx))
    })?;
    let s = stack.clone();
    linker.func_wrap(MODULE, "icmp_open", move |mut caller: Call<'_>, ident: u32, rx: u32, tx: u32| {
        s.call(&mut caller, &s.icmp_open, (ident, rx, tx))
    })?;
    let s = stack.clone();
    linker.func_wrap(
        MODULE,
        "tcp_listen",
        move |mut caller: Call<'_>, addr: u32, backlog: u32, rx: u32, tx: u32| {
            with_address_in(&s, &mut caller, addr, &s.tcp_listen, (backlog, rx, tx))
        },
    )?;
    let s = stack.clone();
    linker.func_wrap(MODULE, "tcp_connect", move |mut caller: Call<'_>, addr: u32, rx: u32, tx: u32| {
        with_address_in(&s, &mut caller, addr, &s.tcp_connect, (rx, tx))
    })?;
    Ok(())
}

fn define_datagrams(linker: &mut Linker<World>, stack: &Arc<Stack>) -> Result<()> {
    let s = stack.clone();
    linker.func_wrap(
        MODULE,
        "send_to",
        move |mut caller: Call<'_>, socket: u32, ptr: u32, len: u32, addr: u32| -> Result<i32> {
            if len as usize > limits::DATAGRAM_BYTES_MAX {
                return Ok(Errno::MSGSIZE.to_result());
            }
            let Some(guest) = readable(&caller, ptr, len) else { return Ok(Errno::FAULT.to_result()) };
            if copy(&caller, (guest, addr), (s.memory, caller.data().layout.address), ADDRESS_BYTES).is_none() {
                return Ok(Errno::FAULT.to_result());
            }
            let slot = match slot(s.call(&mut caller, &s.send_to, (socket, len))?) {
                Ok(slot) => slot,
                Err(returned) => return Ok(returned),
            };
            copy(&caller, (guest, ptr), (s.memory, slot.at), slot.len).expect("both ranges were checked");
            Ok(len as i32)
        },
    )?;
    let s = stack.clone();
    linker.func_wrap(
        MODULE,
        "recv_from",
        move |mut caller: Call<'_>, socket: u32, ptr: u32, cap: u32, addr: u32| -> Result<i32> {
            let guest = readable(&caller, ptr, cap).filter(|_| readable(&caller, addr, ADDRESS_BYTES as u32).is_some());
            let Some(guest) = guest else { return Ok(Errno::FAULT.to_result()) };
            let slot = match slot(s.call(&mut caller, &s.recv_from, socket)?) {
                Ok(slot) => slot,
                Err(returned) => return Ok(returned),
            };
            copy(&caller, (s.memory, slot.at), (guest, ptr), slot.len.min(cap as usize))
                .expect("both ranges were checked");
            copy(&caller, (s.memory, caller.data().layout.address), (guest, addr), ADDRESS_BYTES)
                .expect("both ranges were checked");
            Ok(slot.len as i32)
        },
    )?;
    Ok(())
}

fn define_streams(linker: &mut Linker<World>, stack: &Arc<Stack>) -> Result<()> {
    let s = stack.clone();
    linker.func_wrap(MODULE, "send", move |mut caller: Call<'_>, socket: u32, ptr: u32, len: u32| -> Result<i32> {
        let Some(guest) = readable(&caller, ptr, len) else { return Ok(Errno::FAULT.to_result()) };
        // The netstack's buffer is a ring: what goes past its end takes a second slot.
        let mut sent = 0;
        while sent < len {
            let slot = match slot(s.call(&mut caller, &s.send, (socket, len - sent))?) {
                Ok(slot) => slot,
                Err(returned) if sent == 0 => return Ok(returned),
                Err(_) => break,
            };
            copy(&caller, (guest, ptr + sent), (s.memory, slot.at), slot.len).expect("both ranges were checked");
            sent += slot.len as u32;
        }
        Ok(sent as i32)
    })?;
    let s = stack.clone();
    linker.func_wrap(MODULE, "recv", move |mut caller: Call<'_>, socket: u32, ptr: u32, cap: u32| -> Result<i32> {
        let Some(guest) = readable(&caller, ptr, cap) else { return Ok(Errno::FAULT.to_result()) };
        let mut received = 0;
        while received < cap {
            let slot = match slot(s.call(&mut caller, &s.recv, (socket, cap - received))?) {
                Ok(slot) if slot.len == 0 => break,
                Ok(slot) => slot,
                Err(returned) if received == 0 => return Ok(returned),
                Err(_) => break,
            };
            copy(&caller, (s.memory, slot.at), (guest, ptr + received), slot.len).expect("both ranges were checked");
            received += slot.len as u32;
        }
        Ok(received as i32)
    })?;
    let s = stack.clone();
    linker.func_wrap(MODULE, "accept", move |mut caller: Call<'_>, socket: u32, addr: u32| {
        with_address_out(&s, &mut caller, addr, &s.accept, socket)
    })?;
    let s = stack.clone();
    linker.func_wrap(MODULE, "shutdown", move |mut caller: Call<'_>, socket: u32| {
        s.call(&mut caller, &s.shutdown, socket)
    })?;
    Ok(())
}

fn define_handles(linker: &mut Linker<World>, stack: &Arc<Stack>) -> Result<()> {
    let s = stack.clone();
    linker
        .func_wrap(MODULE, "close", move |mut caller: Call<'_>, socket: u32| s.call(&mut caller, &s.close, socket))?;
    let s = stack.clone();
    linker
        .func_wrap(MODULE, "abort", move |mut caller: Call<'_>, socket: u32| s.call(&mut caller, &s.abort, socket))?;
    let s = stack.clone();
    linker.func_wrap(MODULE, "set_option", move |mut caller: Call<'_>, socket: u32, option: u32, value: i64| {
        s.call(&mut caller, &s.set_option, (socket, option, value))
    })?;
    let s = stack.clone();
    linker.func_wrap(MODULE, "local_addr", move |mut caller: Call<'_>, socket: u32, addr: u32| {
        with_address_out(&s, &mut caller, addr, &s.local_addr, socket)
    })?;
    let s = stack.clone();
    linker.func_wrap(MODULE, "peer_addr", move |mut caller: Call<'_>, socket: u32, addr: u32| {
        with_address_out(&s, &mut caller, addr, &s.peer_addr, socket)
    })?;
    let s = stack.clone();
    linker.func_wrap(MODULE, "ready", move |mut caller: Call<'_>, ptr: u32, cap: u32| -> Result<i32> {
        let layout = caller.data().layout;
        let cap = cap.min(layout.events_max);
        let Some(guest) = readable(&caller, ptr, cap * Event::BYTES as u32) else {
            return Ok(Errno::FAULT.to_result());
        };
        caller.data_mut().fetched_events = true;
        let count = s.call(&mut caller, &s.ready, cap)?;
        let len = Errno::check(count).unwrap_or(0) as usize * Event::BYTES;
        copy(&caller, (s.memory, layout.events), (guest, ptr), len).expect("both ranges were checked");
        Ok(count)
    })?;
    Ok(())
}

/// Calls `function` with the guest's address at `addr` put where the netstack looks for it.
fn with_address_in<P: wasmtime::WasmParams>(
    stack: &Stack,
    caller: &mut Call<'_>,
    addr: u32,
    function: &TypedFunc<P, i32>,
    params: P,
) -> Result<i32> {
    let source = caller.data().memory.map(|guest| (guest, addr));
    let copied =
        source.and_then(|source| copy(&*caller, source, (stack.memory, caller.data().layout.address), ADDRESS_BYTES));
    if copied.is_none() {
        return Ok(Errno::FAULT.to_result());
    }
    stack.call(caller, function, params)
}

/// Calls `function` and, if it succeeds, leaves the netstack's address at the guest's `addr`.
fn with_address_out(
    stack: &Stack,
    caller: &mut Call<'_>,
    addr: u32,
    function: &TypedFunc<u32, i32>,
    socket: u32,
) -> Result<i32> {
    let Some(guest) = readable(caller, addr, ADDRESS_BYTES as u32) else { return Ok(Errno::FAULT.to_result()) };
    let returned = stack.call(&mut *caller, function, socket)?;
    if returned >= 0 {
        copy(&*caller, (stack.memory, caller.data().layout.address), (guest, addr), ADDRESS_BYTES)
            .expect("both ranges were checked");
    }
    Ok(returned)
}

/// A range of the netstack's memory.
struct Slot {
    at: u32,
    len: usize,
}

/// What the netstack returned: `(len << 32) | at`, or a negative errno to hand on.
fn slot(returned: i64) -> std::result::Result<Slot, i32> {
    if returned < 0 {
        return Err(returned as i32);
    }
    Ok(Slot { at: returned as u32, len: (returned >> 32) as usize })
}

/// The guest's memory, if `len` bytes at `ptr` are inside it.
fn readable(caller: &Call<'_>, ptr: u32, len: u32) -> Option<Memory> {
    let memory = caller.data().memory?;
    let end = u64::from(ptr) + u64::from(len);
    (end <= memory.data_size(caller) as u64).then_some(memory)
}

/// Hands a range of the guest's memory and the world to `act`; 0, or `FAULT` if the range is outside.
pub(super) fn with_bytes(caller: &mut Call<'_>, ptr: u32, len: u32, act: impl FnOnce(&mut [u8], &mut World)) -> i32 {
    let Some(memory) = readable(caller, ptr, len) else { return Errno::FAULT.to_result() };
    let (bytes, world) = memory.data_and_store_mut(caller);
    act(&mut bytes[ptr as usize..][..len as usize], world);
    0
}

fn entry(caller: &mut Call<'_>, list: fn(&World) -> &Vec<String>, index: u32, ptr: u32, cap: u32) -> i32 {
    let mut full = None;
    let copied = with_bytes(caller, ptr, cap, |bytes, world| {
        if let Some(entry) = list(world).get(index as usize) {
            let len = entry.len().min(bytes.len());
            bytes[..len].copy_from_slice(&entry.as_bytes()[..len]);
            full = Some(entry.len() as i32);
        }
    });
    if copied < 0 { copied } else { full.unwrap_or(Errno::NOENT.to_result()) }
}
