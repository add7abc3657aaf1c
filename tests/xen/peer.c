/* One end of a channel between two Xen domains, on Xen's own libxenvchan: the peer that ours must work with and be
 * measured against. Speaks the exchange of ring/examples/xen_peer.rs.
 *
 *     peer serve CLIENT PORT LEFT RIGHT | peer join SERVER PORT UP DOWN
 *
 * And one direction alone, of MIB from memory to memory, or from standard input to standard output if that is 0, by
 * pieces of CHUNK bytes:
 *
 *     peer source CLIENT PORT RING CHUNK MIB | peer sink SERVER PORT CHUNK MIB
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

static struct libxenvchan *offer(unsigned peer, unsigned port, size_t left, size_t right)
{
    char path[80];
    snprintf(path, sizeof path, "data/vchan/%u/%u", peer, port);
    struct libxenvchan *channel = libxenvchan_server_init(NULL, peer, path, left, right);
    if (!channel)
        fail("server_init");
    channel->blocking = 1;
    return channel;
}

static struct libxenvchan *find(unsigned own, unsigned peer, unsigned port)
{
    char path[80];
    struct libxenvchan *channel;
    snprintf(path, sizeof path, "/local/domain/%u/data/vchan/%u/%u", peer, own, port);
    for (int tries = 0; !(channel = libxenvchan_client_init(NULL, peer, path)); tries++) {
        if (tries > 600)
            fail("client_init");
        usleep(100000); /* the library has nothing that could be waited for */
    }
    channel->blocking = 1;
    return channel;
}

static void serve(unsigned peer, unsigned port, size_t left, size_t right)
{
    struct libxenvchan *channel = offer(peer, port, left, right);
    uint64_t sizes[2];
    char last;
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
    struct libxenvchan *channel = find(own, peer, port);
    uint64_t sizes[2] = {up, down};
    double start = now();
    send_all(channel, sizes, sizeof sizes);
    send_pattern(channel, up);
    receive_pattern(channel, down);
    send_all(channel, "k", 1);
    report("join", up + down, start);
    libxenvchan_close(channel);
}

static void report_flow(const char *role, uint64_t bytes, double start)
{
    double mib = bytes / 1048576.0, seconds = now() - start;
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    double ms = usage.ru_utime.tv_sec * 1e3 + usage.ru_utime.tv_usec / 1e3 + usage.ru_stime.tv_sec * 1e3 + usage.ru_stime.tv_usec / 1e3;
    fprintf(stderr, "FLOW libxenvchan %s: %.0f MiB, %.1f MiB/s, %.2f notifications/MiB, %.2f ms/MiB\n", role, mib, mib / seconds,
            notifications / mib, ms / mib);
}

static void source(unsigned peer, unsigned port, size_t ring, size_t chunk, uint64_t mib)
{
    struct libxenvchan *channel = offer(peer, port, 4096, ring);
    uint64_t sent = 0;
    char ready;
    receive_all(channel, &ready, 1);
    double start = now();
    for (;;) {
        ssize_t n = mib ? (ssize_t)(sent < mib << 20 ? chunk : 0) : read(0, buffer, chunk);
        if (n < 0)
            fail("standard input");
        if (n == 0)
            break;
        send_all(channel, buffer, n);
        sent += n;
    }
    report_flow("source", sent, start);
    libxenvchan_close(channel);
}

static void sink(unsigned own, unsigned peer, unsigned port, size_t chunk, uint64_t mib)
{
    struct libxenvchan *channel = find(own, peer, port);
    uint64_t got = 0;
    int n;
    send_all(channel, "k", 1);
    double start = now();
    while ((n = libxenvchan_read(channel, buffer, chunk)) > 0) {
        for (int written = 0; !mib && written < n;) {
            ssize_t w = write(1, buffer + written, n - written);
            if (w <= 0)
                fail("standard output");
            written += w;
        }
        got += n;
    }
    report_flow("sink", got, start);
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
    unsigned long n[5] = {0};
    for (int i = 0; i < 5 && i + 2 < argc; i++)
        n[i] = strtoul(argv[i + 2], NULL, 10);
    if (own && argc == 6 && !strcmp(argv[1], "serve"))
        serve(n[0], n[1], n[2], n[3]);
    else if (own && argc == 6 && !strcmp(argv[1], "join"))
        join(atoi(own), n[0], n[1], n[2], n[3]);
    else if (own && argc == 7 && !strcmp(argv[1], "source") && n[3] <= CHUNK)
        source(n[0], n[1], n[2], n[3], n[4]);
    else if (own && argc == 6 && !strcmp(argv[1], "sink") && n[2] <= CHUNK)
        sink(atoi(own), n[0], n[1], n[2], n[3]);
    else {
        fprintf(stderr, "usage: DOMID=OWN peer serve CLIENT PORT LEFT RIGHT | join SERVER PORT UP DOWN\n"
                        "       | source CLIENT PORT RING CHUNK MIB | sink SERVER PORT CHUNK MIB\n");
        return 2;
    }
    return 0;
}
