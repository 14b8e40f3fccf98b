/* Answers in upper case, over UDP and TCP on port 7: a whole guest in C against roam.h alone. */

#include "roam.h"

enum { PORT = 7, BACKLOG = 64, CONNECTIONS_MAX = 256, REPLY_BYTES = 4096 };

static uint32_t udp, listener;

/* A connection, and the part of its last reply that the send queue had no room for. */
typedef struct {
    uint32_t socket;
    uint16_t used, start, end;
    char reply[REPLY_BYTES];
} connection;

static connection connections[CONNECTIONS_MAX];
static char datagram[ROAM_DATAGRAM_BYTES_MAX];

static void fail(const char *line, uint32_t len)
{
    roam_log(ROAM_LOG_ERROR, line, len);
    roam_exit(1);
}

static void shout(char *text, int32_t len)
{
    for (int32_t i = 0; i < len; i++)
        if (text[i] >= 'a' && text[i] <= 'z')
            text[i] -= 'a' - 'A';
}

static void start(void)
{
    static const char no_udp[] = "cannot open UDP port 7", no_tcp[] = "cannot listen on TCP port 7";
    const roam_addr any = {.family = 6, .port = PORT};
    int32_t socket = roam_udp_open(&any, 0, 0);
    if (socket < 0)
        fail(no_udp, sizeof no_udp - 1);
    udp = socket;
    socket = roam_tcp_listen(&any, BACKLOG, 0, 0);
    if (socket < 0)
        fail(no_tcp, sizeof no_tcp - 1);
    listener = socket;
}

/* Answers datagrams until there are none, or no room for replies: then the one at hand is dropped, as UDP may. */
static void serve_udp(void)
{
    roam_addr from;
    int32_t len;
    while ((len = roam_recv_from(udp, datagram, sizeof datagram, &from)) >= 0) {
        shout(datagram, len);
        roam_send_to(udp, datagram, len, &from);
    }
}

/* Goes on with a connection until it would block. */
static void serve_connection(connection *c)
{
    for (;;) {
        int32_t count;
        if (c->start < c->end) {
            count = roam_send(c->socket, c->reply + c->start, c->end - c->start);
            if (count > 0)
                c->start += count;
        } else {
            count = roam_recv(c->socket, c->reply, sizeof c->reply);
            c->start = 0;
            c->end = count > 0 ? count : 0;
            shout(c->reply, c->end);
        }
        if (count == -ROAM_EAGAIN)
            return;
        if (count <= 0) {
            roam_close(c->socket);
            c->used = 0;
            return;
        }
    }
}

static void serve_listener(void)
{
    roam_addr peer;
    int32_t socket;
    while ((socket = roam_accept(listener, &peer)) >= 0) {
        connection *c = connections;
        while (c < connections + CONNECTIONS_MAX && c->used)
            c++;
        if (c == connections + CONNECTIONS_MAX) {
            roam_abort(socket);
            continue;
        }
        roam_set_option(socket, ROAM_NODELAY, 1);
        c->socket = socket;
        c->used = 1;
        c->start = c->end = 0;
        serve_connection(c); /* it may have sent something already */
    }
}

int32_t roam_abi_version(void)
{
    return ROAM_ABI_VERSION;
}

int64_t roam_poll(int64_t now_ns)
{
    static roam_event events[ROAM_EVENTS_MAX];
    static int started;
    int32_t count;
    (void)now_ns;
    if (!started) {
        start();
        started = 1;
    }
    do {
        count = roam_ready(events, ROAM_EVENTS_MAX);
        for (int32_t i = 0; i < count; i++) {
            if (events[i].socket == udp)
                serve_udp();
            else if (events[i].socket == listener)
                serve_listener();
            for (connection *c = connections; c < connections + CONNECTIONS_MAX; c++)
                if (c->used && c->socket == events[i].socket)
                    serve_connection(c);
        }
    } while (count == ROAM_EVENTS_MAX);
    return ROAM_NO_DEADLINE;
}
