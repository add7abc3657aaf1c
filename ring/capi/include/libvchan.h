/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * libvchan: two byte rings between two domains, and one descriptor to poll.
 *
 * The same functions, types and values as those of Qubes OS's libvchan, so that programs written for that one build
 * and run unchanged. Which transport is used is said by the environment: QREXEC_TRANSPORT, QREXEC_SHM_DIR,
 * VCHAN_SOCKET_DIR, VCHAN_DOMAIN.
 *
 * A vchan is used by one thread at a time. Functions that return int return -1 and set errno when they fail: EINVAL
 * for null pointers and impossible sizes, EPIPE when the peer is gone, EAGAIN before the connection is made, EPROTO
 * when the peer misbehaved. No vchan can be used any more after EPROTO; closing it is still needed.
 *
 * Polling: poll libvchan_fd_for_select() for input. When it is readable call libvchan_wait(), then look at
 * libvchan_is_open(), libvchan_data_ready() and libvchan_buffer_space(). Whatever happens after such a look makes the
 * descriptor readable again; being woken for nothing is possible, being left asleep is not.
 */
#ifndef QREXEC_LIBVCHAN_H
#define QREXEC_LIBVCHAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A descriptor that can be polled. */
typedef int EVTCHN;

/* What libvchan_is_open() answers. */
#define VCHAN_DISCONNECTED 0 /* the peer has closed, died or misbehaved; data it left may still be there */
#define VCHAN_CONNECTED 1
#define VCHAN_WAITING 2 /* the peer has not come yet */

struct libvchan;
typedef struct libvchan libvchan_t;

/*
 * Offers a vchan on `port` to the domain `domain` and returns at once; NULL if that fails. The rings hold at least
 * read_min bytes toward us and write_min from us, at most 1 MiB each: the next power of two, from 4096 up; up to 1024
 * and 2048 bytes the two rings of a page instead, but not on the socket transport. What is written before the client
 * comes is kept for it, and moves as soon as it comes. Else the client is let in by the calls made here: wait for it by
 * polling, or by libvchan_wait().
 *
 * To move bytes while the program is elsewhere the library starts a thread when it is needed: for what was written
 * before the client came, and for what a socket did not take at once. The thread takes none of the program's signals.
 * Do not use a vchan in a forked child when the parent uses it too.
 */
libvchan_t *libvchan_server_init(int domain, int port, size_t read_min, size_t write_min);

/* Connects to `port` of the server `domain`, waiting until that is there and has let us in; NULL if that fails. */
libvchan_t *libvchan_client_init(int domain, int port);

/*
 * Begins to do the same. Whenever *watch_fd is readable call libvchan_client_init_async_finish(): 0 means connected,
 * 1 not yet, -1 failed. The descriptor is the one of libvchan_fd_for_select() and belongs to the vchan, which
 * libvchan_close() frees in any case. With `blocking` false, transfers return 0 where they otherwise would wait.
 */
libvchan_t *libvchan_client_init_async(int domain, int port, EVTCHN *watch_fd);
int libvchan_client_init_async_finish(libvchan_t *ctrl, bool blocking);

/*
 * Write: all of it, in pieces if the ring is smaller; without blocking as much as there is room for, returning how much.
 * Send: all of it in one piece; more than the ring holds cannot be sent. Who must not wait looks at
 * libvchan_buffer_space() first: so much is taken at once.
 */
int libvchan_write(libvchan_t *ctrl, const void *data, size_t size);
int libvchan_send(libvchan_t *ctrl, const void *data, size_t size);

/* Read: at least one byte, returning how many; or exactly so much. */
int libvchan_read(libvchan_t *ctrl, void *data, size_t size);
int libvchan_recv(libvchan_t *ctrl, void *data, size_t size);

/*
 * Waits until the descriptor is readable and makes it unreadable; 0, also when what happened is that the peer went.
 * Called again after that it fails at once.
 */
int libvchan_wait(libvchan_t *ctrl);

/*
 * Closes and frees; NULL is ignored. The peer can still read what was written. On the socket transport this waits
 * until the peer has taken it, for a minute if it takes nothing.
 */
void libvchan_close(libvchan_t *ctrl);

/* The descriptor to poll for input, the same from init to close; never read from it or close it. */
EVTCHN libvchan_fd_for_select(libvchan_t *ctrl);

int libvchan_is_open(libvchan_t *ctrl);

/* How many bytes can be read, or written, without waiting. */
int libvchan_data_ready(libvchan_t *ctrl);
int libvchan_buffer_space(libvchan_t *ctrl);

#ifdef __cplusplus
}
#endif

#endif
