/* One end of a channel between two Xen domains, on Xen's own libxenvchan: the peer that ours must work with and be
 * measured against. Speaks the exchange of ring/examples/xen_peer.rs.
 *
 *     peer serve CLIENT PORT LEFT RIGHT | peer join SERVER PORT UP DOWN
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <libxenvchan.h>

enum { PERIOD = 65521, CHUNK = 65536 };

static unsigned char pattern[PERIOD + CHUNK], buffer[CHUNK];
static unsigned long notifications;

/* Stands in front of the library's own, to count what it sends. */
int xenevtchn_notify(xenevtchn_handle *handle, evtchn_port_t port)
{
    static int (*next)(xenevtchn_handle *, evtchn_port_t);
    if (!next)
        *(void **)&next = dlsym(RTLD_NEXT, "xenevtchn_notify");
    notifications++;
    return next(handle, port);
}

static void fail(const char *what)
{
    printf("C peer: FAILED: %s (%s)\n", what, strerror(errno));
    exit(1);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void send_all(struct libxenvchan *channel, const void *bytes, size_t length)
{
    const char *at = bytes;
    while (length) {
        int n = libxenvchan_write(channel, at, length);
        if (n <= 0)
            fail("write");
        at += n;
        length -= n;
    }
}

/* Whatever is there, one byte at least. */
static size_t receive_some(struct libxenvchan *channel, void *bytes, size_t length)
{
    int n = libxenvchan_read(channel, bytes, length);
    if (n <= 0)
        fail("read");
    return n;
}

static void receive_all(struct libxenvchan *channel, void *bytes, size_t length)
{
    for (char *at = bytes; length;) {
        size_t n = receive_some(channel, at, length);
        at += n;
        length -= n;
    }
}

static void send_pattern(struct libxenvchan *channel, uint64_t total)
{
    for (uint64_t sent = 0; sent < total;) {
        size_t n = total - sent < CHUNK ? total - sent : CHUNK;
        send_all(channel, pattern + sent % PERIOD, n);
        sent += n;
    }
}

static void receive_pattern(struct libxenvchan *channel, uint64_t total)
{
    for (uint64_t got = 0; got < total;) {
        size_t n = receive_some(channel, buffer, total - got < CHUNK ? total - got : CHUNK);
        if (memcmp(buffer, pattern + got % PERIOD, n))
            fail("wrong bytes");
        got += n;
    }
}

static void report(const char *role, uint64_t bytes, double start)
{
    double mib = bytes / 1048576.0, seconds = now() - start;
    struct rusage usage;
    if (mib < 1)
        return;
    getrusage(RUSAGE_SELF, &usage);
    double ms = usage.ru_utime.tv_sec * 1e3 + usage.ru_utime.tv_usec / 1e3 + usage.ru_stime.tv_sec * 1e3 + usage.ru_stime.tv_usec / 1e3;
    printf("libxenvchan %s: %.0f MiB, %.1f MiB/s, %.1f notifications/MiB\n", role, mib, mib / seconds, notifications / mib);
    printf("libxenvchan %s: %.2f ms of processor per MiB\n", role, ms / mib);
}

static void serve(unsigned peer, unsigned port, size_t left, size_t right)
{
    char path[80];
    uint64_t sizes[2];
    char last;
    snprintf(path, sizeof path, "data/vchan/%u/%u", peer, port);
    struct libxenvchan *channel = libxenvchan_server_init(NULL, peer, path, left, right);
    if (!channel)
        fail("server_init");
    channel->blocking = 1;
    receive_all(channel, sizes, sizeof sizes);
    double start = now();
    receive_pattern(channel, sizes[0]);
    send_pattern(channel, sizes[1]);
    receive_all(channel, &last, 1);
    if (last != 'k')
        fail("the client says that what it got was wrong");
    while (libxenvchan_is_open(channel))
        libxenvchan_wait(channel);
    report("serve", sizes[0] + sizes[1], start);
    libxenvchan_close(channel);
}

static void join(unsigned own, unsigned peer, unsigned port, uint64_t up, uint64_t down)
{
    char path[80];
    uint64_t sizes[2] = {up, down};
    struct libxenvchan *channel;
    snprintf(path, sizeof path, "/local/domain/%u/data/vchan/%u/%u", peer, own, port);
    for (int tries = 0; !(channel = libxenvchan_client_init(NULL, peer, path)); tries++) {
        if (tries > 600)
            fail("client_init");
        usleep(100000); /* the library has nothing that could be waited for */
    }
    channel->blocking = 1;
    double start = now();
    send_all(channel, sizes, sizeof sizes);
    send_pattern(channel, up);
    receive_pattern(channel, down);
    send_all(channel, "k", 1);
    report("join", up + down, start);
    libxenvchan_close(channel);
}

int main(int argc, char **argv)
{
    const char *own = getenv("DOMID");
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (uint64_t i = 0; i < sizeof pattern; i++) {
        uint64_t k = i % PERIOD;
        pattern[i] = k * k % 251 * 31 + k;
    }
    if (argc != 6 || !own) {
        fprintf(stderr, "usage: DOMID=OWN peer serve CLIENT PORT LEFT RIGHT | join SERVER PORT UP DOWN\n");
        return 2;
    }
    unsigned long n[4];
    for (int i = 0; i < 4; i++)
        n[i] = strtoul(argv[i + 2], NULL, 10);
    if (!strcmp(argv[1], "serve"))
        serve(n[0], n[1], n[2], n[3]);
    else
        join(atoi(own), n[0], n[1], n[2], n[3]);
    return 0;
}
