/* What a roam guest imports and exports, for C. Freestanding: no libc is needed.
 *
 *   clang --target=wasm32 -O2 -nostdlib -ffreestanding -Iguests/sdk/c -Wl,--no-entry -o app.wasm app.c
 *
 * A guest exports roam_abi_version and roam_poll (declared at the end). It runs only inside roam_poll: it does what it
 * can, never waits, and returns when it wants to be called again. Sockets do not block either: what cannot be done now
 * is -ROAM_EAGAIN, and roam_ready reports the socket once that may have changed. Events are edges (as with EPOLLET):
 * go on with a socket until it says -ROAM_EAGAIN, or nobody will tell you about the rest.
 *
 * Functions that can fail return a negative error number. Buffer sizes are bytes; 0 is the default (64 KiB).
 */
#ifndef ROAM_H
#define ROAM_H

#include <stdint.h>

#define ROAM_ABI_VERSION 1

/* ---- Errors: those of WASI preview 1, returned negated ---- */

enum {
    ROAM_EACCES = 2,
    ROAM_EADDRINUSE = 3,
    ROAM_EADDRNOTAVAIL = 4,
    ROAM_EAFNOSUPPORT = 5,
    ROAM_EAGAIN = 6,
    ROAM_EBADF = 8,
    ROAM_ECONNABORTED = 13,
    ROAM_ECONNREFUSED = 14,
    ROAM_ECONNRESET = 15,
    ROAM_EFAULT = 21,
    ROAM_EINVAL = 28,
    ROAM_EISCONN = 30,
    ROAM_EMFILE = 33,
    ROAM_EMSGSIZE = 35,
    ROAM_ENOENT = 44,
    ROAM_ENOMEM = 48,
    ROAM_ENOSYS = 52,
    ROAM_ENOTCONN = 53,
    ROAM_ENOTSUP = 58,
    ROAM_EPIPE = 64,
    ROAM_ETIMEDOUT = 73
};

/* ---- Types ---- */

/* An IP address and port. To bind any address of either family, use family 6 and all zero bytes. */
typedef struct {
    uint16_t family; /* 4 or 6 */
    uint16_t port;   /* in host byte order */
    uint8_t ip[16];  /* in network order; IPv4 uses the first four */
} roam_addr;

/* What may have changed on a socket. */
typedef struct {
    uint32_t socket;
    uint32_t flags; /* ROAM_READABLE, ROAM_WRITABLE, ROAM_CLOSED */
} roam_event;

_Static_assert(sizeof(roam_addr) == 20, "roam_addr is 20 bytes");
_Static_assert(sizeof(roam_event) == 8, "roam_event is 8 bytes");

enum {
    ROAM_READABLE = 1, /* recv, recv_from or accept may succeed */
    ROAM_WRITABLE = 2, /* send or send_to may succeed */
    ROAM_CLOSED = 4    /* the connection is over */
};

enum { ROAM_CLOCK_REALTIME = 0, ROAM_CLOCK_MONOTONIC = 1 };
enum { ROAM_LOG_ERROR = 1, ROAM_LOG_WARN = 2, ROAM_LOG_INFO = 3, ROAM_LOG_DEBUG = 4 };

enum {
    ROAM_NODELAY = 1,   /* TCP: 1 sends small segments at once, 0 (default) gathers them */
    ROAM_KEEPALIVE = 2, /* TCP: interval in ns, 0 (default) is off */
    ROAM_TIMEOUT = 3,   /* TCP: ns without an answer until the connection is aborted, 0 (default) is never */
    ROAM_HOP_LIMIT = 4  /* UDP, TCP: 1 to 255, default 64 */
};

/* What roam_poll returns when only a frame can wake the guest. */
#define ROAM_NO_DEADLINE INT64_MAX
/* Events one roam_ready call returns at most. */
#define ROAM_EVENTS_MAX 256
/* The longest UDP payload. */
#define ROAM_DATAGRAM_BYTES_MAX 65507

/* ---- Imports ---- */

#define ROAM_IMPORT(name) __attribute__((import_module("roam"), import_name(#name)))

/* Nanoseconds: since 1970 (ROAM_CLOCK_REALTIME), or the time given to this roam_poll (ROAM_CLOCK_MONOTONIC). */
ROAM_IMPORT(clock) int64_t roam_clock(uint32_t id);
/* Fills bytes from the guest's own generator. 0. */
ROAM_IMPORT(random) int32_t roam_random(void *bytes, uint32_t len);
/* Logs one line of UTF-8, without a newline; what is over 4096 bytes is cut. 0. */
ROAM_IMPORT(log) int32_t roam_log(uint32_t level, const char *line, uint32_t len);
/* Ends the guest. */
ROAM_IMPORT(exit) _Noreturn void roam_exit(int32_t code);
/* Argument number index (0 is the guest's name) or environment entry ("NAME=value"): its length; copies at most cap.
 * -ROAM_ENOENT past the last. */
ROAM_IMPORT(arg) int32_t roam_arg(uint32_t index, char *text, uint32_t cap);
ROAM_IMPORT(env) int32_t roam_env(uint32_t index, char *text, uint32_t cap);

/* A UDP socket bound to addr (port 0: any free port). */
ROAM_IMPORT(udp_open) int32_t roam_udp_open(const roam_addr *addr, uint32_t rx_bytes, uint32_t tx_bytes);
/* A socket for ICMP echo messages with that identifier; messages are whole, the checksum is filled in. */
ROAM_IMPORT(icmp_open) int32_t roam_icmp_open(uint32_t ident, uint32_t rx_bytes, uint32_t tx_bytes);
/* Sends one datagram. len. */
ROAM_IMPORT(send_to) int32_t roam_send_to(uint32_t socket, const void *bytes, uint32_t len, const roam_addr *to);
/* Receives one datagram: its full length; copies at most cap, the rest is lost. */
ROAM_IMPORT(recv_from) int32_t roam_recv_from(uint32_t socket, void *bytes, uint32_t cap, roam_addr *from);

/* A listening socket; up to backlog connections wait for roam_accept, each with buffers of these sizes. */
ROAM_IMPORT(tcp_listen)
int32_t roam_tcp_listen(const roam_addr *addr, uint32_t backlog, uint32_t rx_bytes, uint32_t tx_bytes);
/* A connected socket and, in peer, where it is connected to. */
ROAM_IMPORT(accept) int32_t roam_accept(uint32_t listener, roam_addr *peer);
/* A connecting socket: ROAM_WRITABLE once it is established. */
ROAM_IMPORT(tcp_connect) int32_t roam_tcp_connect(const roam_addr *addr, uint32_t rx_bytes, uint32_t tx_bytes);
/* Queues what fits: bytes queued, at least 1. */
ROAM_IMPORT(send) int32_t roam_send(uint32_t socket, const void *bytes, uint32_t len);
/* Takes what is there: bytes received; 0 when the peer has sent everything. */
ROAM_IMPORT(recv) int32_t roam_recv(uint32_t socket, void *bytes, uint32_t cap);
/* No more sends: FIN once the queue is empty. 0. */
ROAM_IMPORT(shutdown) int32_t roam_shutdown(uint32_t socket);
/* Gives the handle up; queued bytes still leave. 0. */
ROAM_IMPORT(close) int32_t roam_close(uint32_t socket);
/* Gives the handle up and resets the connection. 0. */
ROAM_IMPORT(abort) int32_t roam_abort(uint32_t socket);
/* Sets ROAM_NODELAY, ROAM_KEEPALIVE, ROAM_TIMEOUT or ROAM_HOP_LIMIT. 0. */
ROAM_IMPORT(set_option) int32_t roam_set_option(uint32_t socket, uint32_t option, int64_t value);
/* This end's and the other end's address. 0; the latter is -ROAM_ENOTCONN until a connect was answered. */
ROAM_IMPORT(local_addr) int32_t roam_local_addr(uint32_t socket, roam_addr *addr);
ROAM_IMPORT(peer_addr) int32_t roam_peer_addr(uint32_t socket, roam_addr *addr);
/* Takes news of sockets: events written, at most cap. Fewer than cap: that was all. */
ROAM_IMPORT(ready) int32_t roam_ready(roam_event *events, uint32_t cap);

/* ---- Exports: a guest defines these ---- */

#define ROAM_EXPORT(name) __attribute__((export_name(#name)))

/* Returns ROAM_ABI_VERSION. */
ROAM_EXPORT(roam_abi_version) int32_t roam_abi_version(void);
/* Works until it would block; returns the next deadline on the same clock, or ROAM_NO_DEADLINE. */
ROAM_EXPORT(roam_poll) int64_t roam_poll(int64_t now_ns);

#endif
