/* SPDX-License-Identifier: GPL-2.0-or-later */
/* One end of a vchan, written against libvchan.h alone. Each role ends with status 0 or says on stderr what went wrong. */
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "libvchan.h"

/* No test waits longer for one event: what takes longer was lost. */
#define LOST_MS 10000

#define CHECK(what)                                                                       \
    do {                                                                                  \
        if (!(what)) {                                                                    \
            fprintf(stderr, "line %d: not so: %s (errno %d)\n", __LINE__, #what, errno);  \
            exit(1);                                                                      \
        }                                                                                 \
    } while (0)

static unsigned char pattern(size_t i)
{
    return (unsigned char)(i * 7 + i / 251);
}

static void sleep_until_readable(int fd)
{
    struct pollfd wanted = { .fd = fd, .events = POLLIN };
    int ready;

    do
        ready = poll(&wanted, 1, LOST_MS);
    while (ready < 0 && errno == EINTR);
    CHECK(ready == 1);
}

static bool readable_now(int fd)
{
    struct pollfd wanted = { .fd = fd, .events = POLLIN };

    return poll(&wanted, 1, 0) == 1;
}

/* Polls, then takes the wake-up. */
static void sleep_on(libvchan_t *v)
{
    sleep_until_readable(libvchan_fd_for_select(v));
    CHECK(libvchan_wait(v) == 0);
}

static libvchan_t *serve(int domain, int port, size_t ring)
{
    libvchan_t *v = libvchan_server_init(domain, port, ring, ring);

    CHECK(v != NULL);
    return v;
}

static libvchan_t *connect_async(int domain, int port, bool blocking)
{
    int fd = -1, result;
    libvchan_t *v = libvchan_client_init_async(domain, port, &fd);

    CHECK(v != NULL && fd >= 0);
    do {
        sleep_until_readable(fd);
        result = libvchan_client_init_async_finish(v, blocking);
        CHECK(result >= 0);
    } while (result > 0);
    CHECK(libvchan_is_open(v) != VCHAN_WAITING);
    CHECK(libvchan_fd_for_select(v) == fd);
    return v;
}

/* Sends back what comes, polling for everything, until the peer closes. `want_room`: bytes of room it insists on. */
static void echo(libvchan_t *v)
{
    static char buffer[7000];
    size_t have = 0, done = 0;

    for (;;) {
        bool open = libvchan_is_open(v) != VCHAN_DISCONNECTED;
        int ready = libvchan_data_ready(v), room = libvchan_buffer_space(v), n;

        CHECK(ready >= 0 && room >= 0);
        if (have == done && ready > 0) {
            n = libvchan_read(v, buffer, sizeof buffer);
            CHECK(n > 0 && n <= ready + (int)sizeof buffer);
            have = (size_t)n;
            done = 0;
        } else if (have > done && room > 0) {
            /* No more than there is room for: a write that waits would not read meanwhile. */
            size_t size = have - done < (size_t)room ? have - done : (size_t)room;

            CHECK(libvchan_write(v, buffer + done, size) == (int)size);
            done += size;
        } else if (!open) {
            return;
        } else {
            sleep_on(v);
        }
    }
}

/* Sends `total` bytes to an echo and reads them back, polling for everything, in pieces of all sizes. */
static void pour(libvchan_t *v, size_t total)
{
    static unsigned char buffer[9000];
    size_t sent = 0, got = 0;

    while (got < total) {
        int ready = libvchan_data_ready(v), room = libvchan_buffer_space(v), n;
        bool moved = false;

        CHECK(libvchan_is_open(v) == VCHAN_CONNECTED);
        if (sent < total && room > 0) {
            size_t size = 1 + sent % sizeof buffer;

            if (size > total - sent)
                size = total - sent;
            if (size > (size_t)room)
                size = (size_t)room;
            for (size_t i = 0; i < size; i++)
                buffer[i] = pattern(sent + i);
            CHECK(libvchan_write(v, buffer, size) == (int)size);
            sent += size;
            moved = true;
        }
        if (ready > 0) {
            n = libvchan_read(v, buffer, 1 + got % sizeof buffer);
            CHECK(n > 0);
            for (int i = 0; i < n; i++)
                CHECK(buffer[i] == pattern(got + (size_t)i));
            got += (size_t)n;
            moved = true;
        }
        if (!moved)
            sleep_on(v);
    }
}

/* Blocks of growing size there and back, by calls that block. */
static void blocks(libvchan_t *v)
{
    static unsigned char out[4096], in[4096];

    for (size_t size = 1; size <= sizeof out; size += 1 + size / 3) {
        for (size_t i = 0; i < size; i++)
            out[i] = pattern(size + i);
        CHECK(libvchan_send(v, out, size) == (int)size);
        memset(in, 0, sizeof in);
        CHECK(libvchan_recv(v, in, size) == (int)size);
        CHECK(memcmp(in, out, size) == 0);
    }
}

/* Eight bytes at a time are wanted, and the peer sends them in two halves: woken by the second, not spinning on the first. */
static void halves(libvchan_t *v)
{
    char word[8];
    int wakes = 0;

    for (int i = 0; i < 50; i++) {
        while (libvchan_data_ready(v) < (int)sizeof word) {
            sleep_on(v);
            wakes++;
        }
        CHECK(libvchan_recv(v, word, sizeof word) == sizeof word);
        CHECK(libvchan_send(v, word, sizeof word) == sizeof word);
    }
    CHECK(wakes < 50 * 8);
}

/* More is written than the ring holds, by a call that blocks, while the peer answers before it reads: the answer came
 * during that call, and must be heard of by whoever polls afterwards without looking. */
static void swallowed(libvchan_t *v)
{
    static char bulk[8192];
    char answer;

    CHECK(libvchan_write(v, bulk, sizeof bulk) == sizeof bulk);
    sleep_on(v);
    while (libvchan_data_ready(v) == 0)
        sleep_on(v);
    CHECK(libvchan_recv(v, &answer, 1) == 1 && answer == 'a');
    CHECK(libvchan_send(v, "z", 1) == 1);
    while (libvchan_is_open(v))
        sleep_on(v);
}

/* What the peer left before it closed can be read; then everything fails, and nothing wakes or hangs. */
static void last_words(libvchan_t *v)
{
    char words[10], more;

    while (libvchan_is_open(v))
        sleep_on(v);
    /* Once the end is acknowledged, whoever reads slowly is not kept awake by it. */
    for (int i = 0; i < 3 && readable_now(libvchan_fd_for_select(v)); i++)
        CHECK(libvchan_wait(v) == 0);
    CHECK(!readable_now(libvchan_fd_for_select(v)));
    CHECK(libvchan_data_ready(v) == sizeof words);
    CHECK(libvchan_recv(v, words, sizeof words) == sizeof words);
    CHECK(memcmp(words, "last words", sizeof words) == 0);
    CHECK(libvchan_data_ready(v) == 0);
    CHECK(libvchan_buffer_space(v) == 0);
    errno = 0;
    CHECK(libvchan_read(v, &more, 1) == -1 && errno == EPIPE);
    CHECK(libvchan_recv(v, &more, 1) == -1);
    CHECK(libvchan_write(v, "x", 1) == -1);
    CHECK(libvchan_send(v, "x", 1) == -1);
    CHECK(libvchan_wait(v) == -1);
    CHECK(libvchan_is_open(v) == VCHAN_DISCONNECTED);
}

/* The peer writes impossible indices: the vchan ends, and every call still returns. */
static void lied_to(libvchan_t *v)
{
    int fd = libvchan_fd_for_select(v);
    char byte;

    puts("connected");
    fflush(stdout);
    while (libvchan_is_open(v)) {
        libvchan_data_ready(v);
        libvchan_buffer_space(v);
        if (!libvchan_is_open(v))
            break;
        sleep_until_readable(fd);
        CHECK(libvchan_wait(v) == 0 || errno == EPROTO);
    }
    CHECK(libvchan_fd_for_select(v) == fd);
    CHECK(readable_now(fd) && libvchan_wait(v) == 0);
    CHECK(!readable_now(fd) && libvchan_wait(v) == -1);
    CHECK(libvchan_data_ready(v) == 0 && libvchan_buffer_space(v) == 0);
    CHECK(libvchan_read(v, &byte, 1) == -1 && libvchan_recv(v, &byte, 1) == -1);
    CHECK(libvchan_write(v, "x", 1) == -1 && libvchan_send(v, "x", 1) == -1);
    CHECK(libvchan_client_init_async_finish(v, true) == -1);
}

static void nonblocking(libvchan_t *v)
{
    static char bulk[4096];
    char byte;
    int n;
    long sent = 0;

    CHECK(libvchan_read(v, &byte, 1) == 0);
    CHECK(libvchan_recv(v, &byte, 1) == 0);
    while ((n = libvchan_write(v, bulk, sizeof bulk)) > 0)
        sent += n;
    CHECK(n == 0 && sent > 0);
    CHECK(libvchan_send(v, bulk, sizeof bulk) == 0);
    CHECK(libvchan_client_init_async_finish(v, true) == 0);
    puts("full");
    fflush(stdout);
    CHECK(libvchan_send(v, bulk, sizeof bulk) == sizeof bulk);
}

/* Many times what the ring holds, in one call: it returns when all of it is written. */
static void writes_all(libvchan_t *v, size_t total)
{
    unsigned char *bulk = malloc(total);

    CHECK(bulk != NULL);
    for (size_t i = 0; i < total; i++)
        bulk[i] = pattern(i);
    CHECK(libvchan_write(v, bulk, total) == (int)total);
    free(bulk);
}

/* Makes no call of the library until somebody says so. */
static void elsewhere(const char *what)
{
    char byte;

    puts(what);
    fflush(stdout);
    CHECK(read(0, &byte, 1) == 0);
}

/* As much as is taken without waiting; says how much that was, and is elsewhere while it moves. */
static void fills_and_leaves(libvchan_t *v)
{
    static unsigned char piece[1000];
    char text[32];
    size_t sent = 0;
    int n;

    do {
        for (size_t i = 0; i < sizeof piece; i++)
            piece[i] = pattern(sent + i);
        n = libvchan_write(v, piece, sizeof piece);
        CHECK(n >= 0);
        sent += (size_t)n;
    } while (n > 0);
    snprintf(text, sizeof text, "%zu", sent);
    elsewhere(text);
}

/* Lines for a stderr that nobody reads, and words for a peer that is gone, are no reason to die. */
static void survives(int domain, int port)
{
    int ends[2], fd = -1;

    CHECK(pipe(ends) == 0 && close(ends[0]) == 0);
    CHECK(dup2(ends[1], 2) == 2);
    CHECK(libvchan_server_init(-1, port, 4096, 4096) == NULL);
    CHECK(libvchan_client_init_async(domain, -1, &fd) == NULL);
    /* A signal of the program's own, blocked by itself, stays. */
    sigset_t pipes, pending;
    sigemptyset(&pipes);
    sigaddset(&pipes, SIGPIPE);
    CHECK(sigprocmask(SIG_BLOCK, &pipes, NULL) == 0 && raise(SIGPIPE) == 0);
    CHECK(libvchan_server_init(-1, port, 4096, 4096) == NULL);
    CHECK(sigpending(&pending) == 0 && sigismember(&pending, SIGPIPE) == 1);
}

static void abuse(int domain, int port)
{
    char byte = 0;
    int fd = -1;
    libvchan_t *v;

    errno = 0;
    CHECK(libvchan_write(NULL, &byte, 1) == -1 && errno == EINVAL);
    CHECK(libvchan_send(NULL, &byte, 1) == -1);
    CHECK(libvchan_read(NULL, &byte, 1) == -1);
    CHECK(libvchan_recv(NULL, &byte, 1) == -1);
    CHECK(libvchan_wait(NULL) == -1);
    CHECK(libvchan_fd_for_select(NULL) == -1);
    CHECK(libvchan_is_open(NULL) == VCHAN_DISCONNECTED);
    CHECK(libvchan_data_ready(NULL) == -1);
    CHECK(libvchan_buffer_space(NULL) == -1);
    CHECK(libvchan_client_init_async_finish(NULL, true) == -1);
    libvchan_close(NULL);
    CHECK(libvchan_client_init_async(domain, port, NULL) == NULL);
    CHECK(libvchan_client_init_async(-1, port, &fd) == NULL);
    CHECK(libvchan_client_init(domain, -5) == NULL);
    CHECK(libvchan_server_init(-1, port, 4096, 4096) == NULL);
    CHECK(libvchan_server_init(domain, port, (1 << 20) + 1, 4096) == NULL);
    CHECK(libvchan_server_init(domain, port, 4096, SIZE_MAX) == NULL);

    v = serve(domain, port, 4096);
    CHECK(libvchan_is_open(v) == VCHAN_WAITING);
    CHECK(libvchan_data_ready(v) == 0);
    CHECK(libvchan_buffer_space(v) == 4096);
    CHECK(libvchan_write(v, NULL, 1) == -1);
    CHECK(libvchan_recv(v, NULL, 1) == -1);
    CHECK(libvchan_send(v, NULL, 0) == 0);
    CHECK(libvchan_read(v, NULL, 0) == 0);
    CHECK(libvchan_send(v, &byte, (size_t)INT_MAX + 1) == -1);
    CHECK(libvchan_send(v, &byte, SIZE_MAX) == -1);
    CHECK(libvchan_send(v, &byte, 4097) == -1);
    CHECK(libvchan_recv(v, &byte, 4097) == -1);
    CHECK(libvchan_client_init_async_finish(v, true) == -1);
    CHECK(!readable_now(libvchan_fd_for_select(v)));
    libvchan_close(v);

    v = libvchan_client_init_async(domain, port + 1, &fd);
    CHECK(v != NULL);
    CHECK(libvchan_is_open(v) == VCHAN_WAITING);
    CHECK(libvchan_data_ready(v) == 0 && libvchan_buffer_space(v) == 0);
    errno = 0;
    CHECK(libvchan_send(v, &byte, 1) == -1 && errno == EAGAIN);
    CHECK(libvchan_recv(v, &byte, 1) == -1);
    CHECK(libvchan_client_init_async_finish(v, true) == 1);
    libvchan_close(v);
}

int main(int argc, char **argv)
{
    const char *role = argc > 3 ? argv[1] : "";
    int domain = argc > 3 ? atoi(argv[2]) : 0, port = argc > 3 ? atoi(argv[3]) : 0;
    size_t number = argc > 4 ? (size_t)strtoul(argv[4], NULL, 10) : 0;
    libvchan_t *v = NULL;

    alarm(50);
    if (!strcmp(role, "serve-echo")) {
        v = serve(domain, port, number);
        while (libvchan_is_open(v) == VCHAN_WAITING)
            sleep_on(v);
        echo(v);
    } else if (!strcmp(role, "pour")) {
        v = connect_async(domain, port, true);
        pour(v, number);
    } else if (!strcmp(role, "serve-pour")) {
        v = serve(domain, port, 4096);
        CHECK(libvchan_wait(v) == 0);
        pour(v, number);
    } else if (!strcmp(role, "blocks")) {
        v = libvchan_client_init(domain, port);
        CHECK(v != NULL);
        blocks(v);
    } else if (!strcmp(role, "serve-early")) {
        /* Speaks before anyone is there, and blocks at once, as agents do. */
        char reply[5];

        v = serve(domain, port, 4096);
        CHECK(libvchan_send(v, "hello", 5) == 5);
        CHECK(libvchan_buffer_space(v) >= 4096 - 5);
        CHECK(libvchan_recv(v, reply, 5) == 5 && memcmp(reply, "hello", 5) == 0);
        CHECK(libvchan_send(v, "last words", 10) == 10);
    } else if (!strcmp(role, "halves")) {
        v = connect_async(domain, port, true);
        halves(v);
    } else if (!strcmp(role, "swallowed")) {
        v = connect_async(domain, port, true);
        swallowed(v);
    } else if (!strcmp(role, "last-words")) {
        v = connect_async(domain, port, true);
        last_words(v);
    } else if (!strcmp(role, "lied-to")) {
        v = connect_async(domain, port, true);
        lied_to(v);
    } else if (!strcmp(role, "nonblocking")) {
        v = connect_async(domain, port, false);
        nonblocking(v);
    } else if (!strcmp(role, "writes-all")) {
        v = libvchan_client_init(domain, port);
        CHECK(v != NULL);
        writes_all(v, number);
    } else if (!strcmp(role, "serve-writes-all")) {
        /* Partly before the client comes. */
        v = serve(domain, port, 4096);
        writes_all(v, number);
    } else if (!strcmp(role, "serve-elsewhere")) {
        v = serve(domain, port, 4096);
        CHECK(libvchan_write(v, "hello", 5) == 5);
        elsewhere("written");
        CHECK(libvchan_buffer_space(v) == (int)number);
    } else if (!strcmp(role, "fills-and-leaves")) {
        v = connect_async(domain, port, false);
        fills_and_leaves(v);
    } else if (!strcmp(role, "survives")) {
        survives(domain, port);
        return 0;
    } else if (!strcmp(role, "serve-unequal")) {
        v = libvchan_server_init(domain, port, 1, number);
        CHECK(v != NULL);
        while (libvchan_is_open(v) == VCHAN_WAITING)
            sleep_on(v);
        echo(v);
    } else if (!strcmp(role, "abuse")) {
        abuse(domain, port);
    } else {
        fprintf(stderr, "no such role: %s\n", role);
        return 2;
    }
    libvchan_close(v);
    return 0;
}
