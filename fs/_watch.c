/*
 * A watch: a thread that waits for requests while the event loop sleeps, and answers by itself the one that needs no
 * Python: an ioctl, by which Python's `open` asks of each file whether it is a terminal. To wake the event loop for it
 * takes 0.1 ms of a processor, which a training job has no use of its own for.
 *
 * The first other request is kept, the watch ends, and the event loop is woken by an eventfd; so it is where the device
 * has ended. All of this but `watch` is called by the thread of the event loop.
 */
#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64
#define FUSE_USE_VERSION 35

#include "_watch.h"

#include <errno.h>
#include <linux/fuse.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

EXPORT unsigned dvfs_watch_answered = 0;

static struct fuse_session *session;
static dvfs_receive receive;
static int device = -1;
static int answers;

static pthread_t thread;
static int woken = -1; /* an eventfd, to be read when there is a request; -1 before the first watch */
static int told = -1; /* an eventfd: a watch begins, or all end */
static int has_ended;
static int kept_size;
static struct fuse_buf kept;

void dvfs_watch_over(struct fuse_session *se, dvfs_receive by, int from, int answers_ioctls)
{
    session = se;
    receive = by;
    device = from;
    answers = answers_ioctls;
}

static void tell(int eventfd)
{
    const uint64_t one = 1;

    while (write(eventfd, &one, sizeof(one)) < 0 && errno == EINTR)
        ;
}

static int is_answered(int got)
{
    const struct fuse_in_header *head = kept.mem;
    struct fuse_out_header answer = {sizeof(answer), -ENOSYS, 0};

    if (got < (int)sizeof(*head) || kept.flags & FUSE_BUF_IS_FD || head->opcode != FUSE_IOCTL)
        return 0;
    answer.unique = head->unique;
    if (write(device, &answer, sizeof(answer)) < 0 && errno != ENOENT) /* ENOENT: who asked is gone */
        return 0;
    dvfs_watch_answered++;
    return 1;
}

/* Answers requests until there is one to keep, or the device ends. */
static void watch_once(void)
{
    struct pollfd waited[2] = {{device, POLLIN, 0}, {told, POLLIN, 0}};
    int got;

    for (;;) {
        if (poll(waited, 2, -1) < 0 && errno != EINTR)
            break;
        if (waited[1].revents) /* all end */
            return;
        got = receive(session, &kept);
        if (got == -EAGAIN || got == -EINTR || got == -ENOENT || is_answered(got))
            continue;
        __atomic_store_n(&kept_size, got > 0 ? got : 0, __ATOMIC_RELEASE);
        break;
    }
    tell(woken);
}

static void *watch(void *unused)
{
    uint64_t count;

    pthread_setname_np(pthread_self(), "dvfs-watch");
    for (;;) {
        if (read(told, &count, sizeof(count)) < 0) {
            if (errno == EINTR)
                continue;
            return unused;
        }
        if (__atomic_load_n(&has_ended, __ATOMIC_ACQUIRE))
            return unused;
        watch_once();
    }
}

/* Begins a watch, of which there is one at a time. Returns the eventfd that tells of a request; -1 where there
 * can be none. */
EXPORT int dvfs_watch_begin(void)
{
    if (device < 0 || !answers || has_ended)
        return -1;
    if (woken < 0) {
        woken = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        told = eventfd(0, EFD_CLOEXEC);
        if (woken < 0 || told < 0 || pthread_create(&thread, NULL, watch, NULL) != 0) {
            answers = 0;
            return -1;
        }
    }
    tell(told);
    return woken;
}

/* Ends the watch, if there is one, and its thread. There will be none any more. */
EXPORT void dvfs_watch_end(void)
{
    if (has_ended || woken < 0)
        return;
    __atomic_store_n(&has_ended, 1, __ATOMIC_RELEASE);
    tell(told);
    pthread_join(thread, NULL);
}

int dvfs_watch_take(struct fuse_buf *buf)
{
    struct fuse_buf taken;
    int size = __atomic_load_n(&kept_size, __ATOMIC_ACQUIRE);

    if (size == 0) /* then the watch may be writing to `kept` */
        return 0;
    taken = kept;
    kept = *buf; /* its memory is used again */
    *buf = taken;
    __atomic_store_n(&kept_size, 0, __ATOMIC_RELEASE);
    return size;
}
