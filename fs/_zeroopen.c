/*
 * Zero-message opens, for pyfuse3 as it is.
 *
 * A kernel that gets ENOSYS for OPEN and OPENDIR stops sending them, and then has no file handle to give: `fi->fh` is 0
 * in READ, WRITE, FSYNC and READDIRPLUS. pyfuse3 hands its operations nothing but that handle. This library, loaded with
 * RTLD_GLOBAL before pyfuse3 is, stands before libfuse's `fuse_session_new` and wraps the operations given to it: a
 * handle of 0 becomes the inode number. It also
 *   - asks, at INIT, for cached symbolic links and a longer queue of background requests, not for requests through a
 *     pipe, which pays for large writes only, and, if read-only, for no look at attributes before each read;
 *   - answers what is asked of every file (a security label and ACLs by `ls -l`, whether it is a terminal by Python's
 *     `open`) without Python: no entry has such attributes, none is;
 *   - answers who reads a small file that was just looked up, too, out of the file of the cache that has it, where Python
 *     said so beforehand. See `ready.py`;
 *   - tells the kernel, if writable, that set-user-id bits are dropped here (FUSE_HANDLE_KILLPRIV_V2, which libfuse does
 *     not know): else it asks before each write(2) whether the file has capabilities. Where they are to be dropped,
 *     `DVFS_DROPS` is set in the handle;
 *   - makes the device non-blocking: a request that was withdrawn between poll and read would otherwise leave pyfuse3
 *     waiting in read(2) with the interpreter's lock held. pyfuse3 tries again on EINTR, so EAGAIN becomes that;
 *   - gives an answer of many bytes to the kernel, which copies it, without the interpreter's lock;
 *   - waits a moment for the next request itself, at first without sleeping: the event loop takes longer for it than for
 *     answering. It says in `dvfs_zeroopen_idle` that there was none. See `turns.py`;
 *   - keeps the INIT of the kernel, by which the session of a worker, which gets none, begins. See `worker.py`;
 *   - lets the kernel read files by itself where that is asked for (FUSE_PASSTHROUGH, which libfuse knows from 3.17 on and
 *     pyfuse3 does not): says so at INIT, and names the file in the answer to OPEN. See `passthrough.py`.
 *
 * libfuse is found as the caller's own: in the dependencies of the library that called. One session a process.
 */
#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64
#define FUSE_USE_VERSION 35
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "_watch.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse3/fuse_lowlevel.h>
#include <linux/fuse.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>

/* Newer headers make these names macros or inline functions. */
#undef fuse_session_new

#define EXPORT __attribute__((visibility("default")))

EXPORT int dvfs_zeroopen_sessions = 0;
EXPORT unsigned dvfs_zeroopen_max_background = 64;
EXPORT int dvfs_zeroopen_writable = 0;
EXPORT int dvfs_zeroopen_idle = 1;
EXPORT int dvfs_zeroopen_wait_ns = 0;
EXPORT unsigned dvfs_zeroopen_answered = 0;
EXPORT int dvfs_zeroopen_device = -1;

/* Whether the kernel shall read files by itself, and whether it does; what the next answer to OPEN hands over: the file
 * with that number, for the handle *backed*. */
EXPORT int dvfs_zeroopen_wants_passthrough = 0;
EXPORT int dvfs_zeroopen_passes = 0;
EXPORT int dvfs_zeroopen_backing = 0;
EXPORT unsigned long long dvfs_zeroopen_backed = 0;

/* INIT as the kernel sent it; where `begins`, what another process was sent, by which the session is to begin. */
EXPORT unsigned char dvfs_zeroopen_init[256];
EXPORT int dvfs_zeroopen_init_size = 0;
EXPORT int dvfs_zeroopen_begins = 0;

/* How many questions in a row are answered here, and how long the next one may take to come, before Python has a turn. */
#define ANSWERED_AT_ONCE 64
#define NEXT_QUESTION_NS (200 * 1000)

/* How long to look for the next request before falling asleep: being woken takes longer than most programs take to ask,
 * on a virtual machine above all. */
#define AWAKE_NS (60 * 1000)

/* Where programs take longer, others have the processor: after so many times in vain only one time in so many. */
#define AWAKE_IN_VAIN 4
#define AWAKE_AGAIN 16

/* From how many bytes on copying an answer takes longer than to give the interpreter's lock away and have it again. */
#define LONG_ANSWER_BYTES (256 << 10)

/* Small files of which Python said where they are: *size* bytes from byte *start* of the descriptor *fd*, which stays
 * open; inode 0: none. A file has the place that its inode modulo their number says. */
#define READY_FILES 128
#define READY_BYTES (128 << 10)

struct ready {
    uint64_t inode;
    int64_t start;
    uint32_t size;
    int32_t fd;
};

EXPORT struct ready dvfs_zeroopen_ready[READY_FILES];

/* Inodes of the files whose bytes were given to who read them, until Python has taken note. */
EXPORT uint64_t dvfs_zeroopen_given[ANSWERED_AT_ONCE];
EXPORT unsigned dvfs_zeroopen_given_count = 0;

#define DVFS_DROPS (1ULL << 63)

/* Of Linux 6.9, which the headers may be older than. */
#define FLAGS2_PASSTHROUGH (1U << (37 - 32))
#define OPEN_PASSTHROUGH (1U << 7)

/* A mount may lie on this one, as an overlay does, and files that are handed over lie on no such. */
#define MAX_STACK_DEPTH 1

static struct fuse_lowlevel_ops original;
static int drops;
static int (*reply_err)(fuse_req_t, int);
static int (*reply_bytes)(fuse_req_t, const char *, size_t);

/* The answer to the READ that is being processed; none of no bytes: Python answers. */
static char ready_bytes[READY_BYTES];
static uint32_t ready_size;

/* Returns what the library that called, at *caller*, would have called itself. */
static void *callers(const void *caller, const char *name)
{
    Dl_info found;
    void *library, *function = NULL;

    if (dladdr(caller, &found) && (library = dlopen(found.dli_fname, RTLD_LAZY | RTLD_NOLOAD)) != NULL) {
        function = dlsym(library, name);
        dlclose(library); /* it stays: its own code is running */
    }
    return function;
}

static void wrapped_init(void *userdata, struct fuse_conn_info *conn)
{
    if (original.init)
        original.init(userdata, conn);
    conn->want |= conn->capable & FUSE_CAP_CACHE_SYMLINKS;
    conn->want &= ~FUSE_CAP_SPLICE_READ;
    if (dvfs_zeroopen_writable) /* without OPEN nobody else would truncate, or drop a set-user-id bit */
        conn->want &= ~(FUSE_CAP_ATOMIC_O_TRUNC | FUSE_CAP_HANDLE_KILLPRIV);
    else /* nothing changes, and else who reads asks for attributes whenever bytes were dropped */
        conn->want &= ~FUSE_CAP_AUTO_INVAL_DATA;
    conn->max_background = dvfs_zeroopen_max_background;
    conn->congestion_threshold = dvfs_zeroopen_max_background * 3 / 4;
}

static void wrapped_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
    if (ready_size) {
        reply_bytes(req, ready_bytes, ready_size);
        return;
    }
    if (fi->fh == 0)
        fi->fh = ino;
    original.read(req, ino, size, off, fi);
}

static void wrapped_write_buf(fuse_req_t req, fuse_ino_t ino, struct fuse_bufvec *bufv, off_t off,
                              struct fuse_file_info *fi)
{
    fi->fh = (fi->fh ? fi->fh : ino) | (drops ? DVFS_DROPS : 0);
    original.write_buf(req, ino, bufv, off, fi);
}

static void wrapped_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t off,
                          struct fuse_file_info *fi)
{
    fi->fh = (fi->fh ? fi->fh : ino) | (drops ? DVFS_DROPS : 0);
    original.write(req, ino, buf, size, off, fi);
}

static void wrapped_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attributes, int which,
                            struct fuse_file_info *fi)
{
    struct fuse_file_info dropping = {0};

    dropping.fh = DVFS_DROPS;
    original.setattr(req, ino, attributes, which, drops ? &dropping : fi);
}

static void wrapped_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
    if (fi->fh == 0)
        fi->fh = ino;
    original.fsync(req, ino, datasync, fi);
}

static void wrapped_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
    if (fi->fh == 0)
        fi->fh = ino;
    original.readdir(req, ino, size, off, fi);
}

static void wrapped_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
    if (fi->fh == 0)
        fi->fh = ino;
    original.readdirplus(req, ino, size, off, fi);
}

static int is_foreign(const char *name)
{
    return strncmp(name, "security.", 9) == 0 || strncmp(name, "system.", 7) == 0;
}

static void wrapped_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
    if (is_foreign(name))
        /* The kernel asks a writable mount for ACLs itself, and takes nothing but ENODATA for none. */
        reply_err(req, !dvfs_zeroopen_writable || strncmp(name, "security.", 9) == 0 ? ENOTSUP : ENODATA);
    else
        original.getxattr(req, ino, name, size);
}

static int wrap(const void *caller, const struct fuse_lowlevel_ops *op, size_t op_size, struct fuse_lowlevel_ops *out)
{
    if (op == NULL || op_size > sizeof(*out) || op->read == wrapped_read)
        return 0;
    memset(out, 0, sizeof(*out));
    memcpy(out, op, op_size);
    original = *out;
    out->init = wrapped_init;
    if (out->read)
        out->read = wrapped_read;
    if (out->write)
        out->write = wrapped_write;
    if (out->write_buf)
        out->write_buf = wrapped_write_buf;
    if (out->setattr)
        out->setattr = wrapped_setattr;
    if (out->fsync)
        out->fsync = wrapped_fsync;
    if (out->readdir)
        out->readdir = wrapped_readdir;
    if (out->readdirplus)
        out->readdirplus = wrapped_readdirplus;
    reply_err = (int (*)(fuse_req_t, int))callers(caller, "fuse_reply_err");
    reply_bytes = (int (*)(fuse_req_t, const char *, size_t))callers(caller, "fuse_reply_buf");
    if (out->getxattr && reply_err)
        out->getxattr = wrapped_getxattr;
    dvfs_zeroopen_device = -1;
    return 1;
}

/* Up to libfuse 3.16, and the symbol that 3.17 keeps for programs built with them. */
EXPORT struct fuse_session *fuse_session_new(struct fuse_args *args, const struct fuse_lowlevel_ops *op,
                                             size_t op_size, void *userdata)
{
    typedef struct fuse_session *(*function)(struct fuse_args *, const struct fuse_lowlevel_ops *, size_t, void *);
    const void *caller = __builtin_return_address(0);
    function real = (function)callers(caller, "fuse_session_new");
    struct fuse_lowlevel_ops ops;
    struct fuse_session *session;

    if (real == NULL)
        return NULL;
    if (!wrap(caller, op, op_size, &ops))
        return real(args, op, op_size, userdata);
    session = real(args, &ops, op_size, userdata);
    dvfs_zeroopen_sessions += session != NULL;
    return session;
}

/* libfuse 3.17 and later, for programs built with it; the first of them had another name for it. */
typedef struct fuse_session *(*versioned)(struct fuse_args *, const struct fuse_lowlevel_ops *, size_t, const void *,
                                          void *);

static struct fuse_session *new_versioned(const char *name, const void *caller, struct fuse_args *args,
                                          const struct fuse_lowlevel_ops *op, size_t op_size, const void *version,
                                          void *userdata)
{
    versioned real = (versioned)callers(caller, name);
    struct fuse_lowlevel_ops ops;
    struct fuse_session *session;

    if (real == NULL)
        return NULL;
    if (!wrap(caller, op, op_size, &ops))
        return real(args, op, op_size, version, userdata);
    session = real(args, &ops, op_size, version, userdata);
    dvfs_zeroopen_sessions += session != NULL;
    return session;
}

#define VERSIONED(alias, symbol)                                                                                       \
    EXPORT struct fuse_session *alias(struct fuse_args *args, const struct fuse_lowlevel_ops *op, size_t op_size,      \
                                      const void *version, void *userdata) __asm__(symbol);                            \
    EXPORT struct fuse_session *alias(struct fuse_args *args, const struct fuse_lowlevel_ops *op, size_t op_size,      \
                                      const void *version, void *userdata)                                             \
    {                                                                                                                  \
        return new_versioned(symbol, __builtin_return_address(0), args, op, op_size, version, userdata);               \
    }

VERSIONED(session_new_versioned, "fuse_session_new_versioned")
VERSIONED(session_new_317, "_fuse_session_new_317")

static const void *body_of(const struct fuse_buf *buf, unsigned opcode, size_t least)
{
    const struct fuse_in_header *head = buf->mem;

    if (buf->flags & FUSE_BUF_IS_FD || buf->size < sizeof(*head) + least || head->opcode != opcode)
        return NULL;
    return head + 1;
}

/* Tells whether *buf* asks for all of a file that is ready, and its bytes are in memory; then `ready_bytes` has them. It
 * is ready once: what was read the kernel keeps. */
static int is_ready(const struct fuse_buf *buf)
{
    const struct fuse_in_header *head = buf->mem;
    const struct fuse_read_in *asked = body_of(buf, FUSE_READ, sizeof(*asked));
    struct ready *found = &dvfs_zeroopen_ready[head->nodeid % READY_FILES];
    struct iovec bytes = {ready_bytes, found->size};

    if (asked == NULL || reply_bytes == NULL || found->inode != head->nodeid ||
        dvfs_zeroopen_given_count == ANSWERED_AT_ONCE)
        return 0;
    found->inode = 0;
    if (asked->offset != 0 || asked->size < found->size || found->size > READY_BYTES ||
        preadv2(found->fd, &bytes, 1, found->start, RWF_NOWAIT) != (ssize_t)found->size)
        return 0;
    ready_size = found->size;
    dvfs_zeroopen_given[dvfs_zeroopen_given_count++] = head->nodeid;
    return 1;
}

/* Tells whether the request of *got* bytes in *buf* is answered without Python: one that wrapped_getxattr answers, an
 * ioctl, of which libfuse says that there is none, or a READ of what is ready. */
static int is_answered_here(const struct fuse_buf *buf, int got)
{
    const struct fuse_in_header *head = buf->mem;
    const char *name = (const char *)buf->mem + sizeof(*head) + sizeof(struct fuse_getxattr_in);

    if (reply_err == NULL || buf->flags & FUSE_BUF_IS_FD || got < (int)sizeof(*head))
        return 0;
    if (head->opcode == FUSE_READ)
        return is_ready(buf);
    if (head->opcode == FUSE_IOCTL)
        return original.ioctl == NULL;
    return head->opcode == FUSE_GETXATTR && got > (int)(sizeof(*head) + sizeof(struct fuse_getxattr_in)) &&
           ((const char *)buf->mem)[got - 1] == '\0' && is_foreign(name);
}

/* Tells whether the request in *buf* is one by which set-user-id bits are to be dropped. */
static int is_dropping(const struct fuse_buf *buf)
{
    const struct fuse_write_in *written = body_of(buf, FUSE_WRITE, sizeof(*written));
    const struct fuse_setattr_in *set = body_of(buf, FUSE_SETATTR, sizeof(*set));

    return (written && written->write_flags & FUSE_WRITE_KILL_SUIDGID) || (set && set->valid & FATTR_KILL_SUIDGID);
}

struct init_answer {
    struct fuse_out_header head;
    struct fuse_init_out body;
    char further[256];
};

static int offers_passthrough(const struct fuse_init_in *init)
{
    return init->flags & FUSE_INIT_EXT && init->flags2 & FLAGS2_PASSTHROUGH;
}

/* Says more in *answer* to *init* than libfuse can. */
static void complete(struct init_answer *answer, const struct fuse_init_in *init)
{
    const uint32_t depth = MAX_STACK_DEPTH;

    if (dvfs_zeroopen_writable)
        answer->body.flags |= FUSE_HANDLE_KILLPRIV_V2 & init->flags;
    if (dvfs_zeroopen_wants_passthrough && offers_passthrough(init)) {
        answer->body.flags |= FUSE_INIT_EXT;
        answer->body.flags2 |= FLAGS2_PASSTHROUGH;
        /* Its name is younger than its place, behind `flags2`. */
        memcpy((char *)&answer->body.flags2 + sizeof(answer->body.flags2), &depth, sizeof(depth));
        dvfs_zeroopen_passes = 1;
    }
}

/* Has libfuse answer INIT into a socket in the device's place. If *asked*, the kernel gets that answer, completed. */
static int process_init(struct fuse_session *se, const struct fuse_buf *buf, int asked,
                        void (*process)(struct fuse_session *, const struct fuse_buf *))
{
    const struct fuse_init_in *init = body_of(buf, FUSE_INIT, sizeof(*init));
    struct init_answer answer;
    int pair[2], device = fcntl(dvfs_zeroopen_device, F_DUPFD_CLOEXEC, 0);
    ssize_t got;

    if (device < 0)
        return 0;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
        close(device);
        return 0;
    }
    if (dup3(pair[1], dvfs_zeroopen_device, O_CLOEXEC) < 0) {
        close(pair[0]);
        close(pair[1]);
        close(device);
        return 0;
    }
    process(se, buf);
    dup3(device, dvfs_zeroopen_device, O_CLOEXEC);
    got = recv(pair[0], &answer, sizeof(answer), MSG_DONTWAIT);
    if (asked && init && got >= (ssize_t)(sizeof(answer.head) + sizeof(answer.body)) && answer.head.error == 0)
        complete(&answer, init);
    if (asked && got > 0 && write(device, &answer, got) < 0)
        fprintf(stderr, "fuse: INIT cannot be answered: %s\n", strerror(errno));
    close(pair[0]);
    close(pair[1]);
    close(device);
    return 1;
}

EXPORT void fuse_session_process_buf(struct fuse_session *se, const struct fuse_buf *buf)
{
    static void (*process)(struct fuse_session *, const struct fuse_buf *);
    const struct fuse_init_in *init = body_of(buf, FUSE_INIT, sizeof(*init));

    if (process == NULL)
        process = (void (*)(struct fuse_session *, const struct fuse_buf *))callers(__builtin_return_address(0),
                                                                                    "fuse_session_process_buf");
    if (init && buf->size <= sizeof(dvfs_zeroopen_init)) {
        memcpy(dvfs_zeroopen_init, buf->mem, buf->size);
        dvfs_zeroopen_init_size = (int)buf->size;
    }
    if (init && ((dvfs_zeroopen_writable && init->flags & FUSE_HANDLE_KILLPRIV_V2) ||
                 (dvfs_zeroopen_wants_passthrough && offers_passthrough(init))) &&
        process_init(se, buf, 1, process))
        return;
    drops = is_dropping(buf);
    process(se, buf);
    drops = 0;
}

static int reply_buf(const void *caller, fuse_req_t req, const char *buf, size_t size)
{
    static int (*reply)(fuse_req_t, const char *, size_t);
    PyThreadState *state;
    int result;

    if (reply == NULL &&
        (reply = (int (*)(fuse_req_t, const char *, size_t))callers(caller, "fuse_reply_buf")) == NULL)
        return -ENOSYS;
    if (size < LONG_ANSWER_BYTES || !PyGILState_Check())
        return reply(req, buf, size);
    state = PyEval_SaveThread();
    result = reply(req, buf, size);
    PyEval_RestoreThread(state);
    return result;
}

EXPORT int fuse_reply_buf(fuse_req_t req, const char *buf, size_t size)
{
    return reply_buf(__builtin_return_address(0), req, buf, size);
}

EXPORT int fuse_reply_open(fuse_req_t req, const struct fuse_file_info *fi)
{
    static int (*reply)(fuse_req_t, const struct fuse_file_info *);
    struct {
        uint64_t fh;
        uint32_t flags;
        uint32_t backing;
    } answer = {fi->fh, OPEN_PASSTHROUGH, (uint32_t)dvfs_zeroopen_backing};
    const void *caller = __builtin_return_address(0);

    if (reply == NULL &&
        (reply = (int (*)(fuse_req_t, const struct fuse_file_info *))callers(caller, "fuse_reply_open")) == NULL)
        return -ENOSYS;
    if (dvfs_zeroopen_backing <= 0 || dvfs_zeroopen_backed != fi->fh)
        return reply(req, fi);
    dvfs_zeroopen_backing = 0;
    return reply_buf(caller, req, (const char *)&answer, sizeof(answer));
}

static long since_ns(const struct timespec *begin)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (now.tv_sec - begin->tv_sec) * 1000000000L + (now.tv_nsec - begin->tv_nsec);
}

/* Tells whether the next request comes within *wait_ns*. */
static int is_next_soon(long wait_ns)
{
    static unsigned slept; /* how often in a row it did not come while this was awake */
    struct pollfd waited = {dvfs_zeroopen_device, POLLIN, 0};
    struct timespec timeout = {0, wait_ns}, begin;
    int found = 0;

    Py_BEGIN_ALLOW_THREADS
    clock_gettime(CLOCK_MONOTONIC, &begin);
    if (slept < AWAKE_IN_VAIN || slept % AWAKE_AGAIN == 0)
        while ((found = poll(&waited, 1, 0)) == 0 && since_ns(&begin) < AWAKE_NS)
            sched_yield();
    slept = found ? 0 : slept + 1;
    if (found == 0)
        found = ppoll(&waited, 1, &timeout, NULL);
    Py_END_ALLOW_THREADS
    return found > 0;
}

EXPORT int fuse_session_receive_buf(struct fuse_session *se, struct fuse_buf *buf)
{
    static int (*receive)(struct fuse_session *, struct fuse_buf *);
    static void (*process)(struct fuse_session *, const struct fuse_buf *);
    static int (*descriptor)(struct fuse_session *);
    const void *caller = __builtin_return_address(0);
    int got, kept, answered = 0, wait_ns = dvfs_zeroopen_wait_ns;

    if (receive == NULL) {
        receive = (int (*)(struct fuse_session *, struct fuse_buf *))callers(caller, "fuse_session_receive_buf");
        process = (void (*)(struct fuse_session *, const struct fuse_buf *))callers(caller, "fuse_session_process_buf");
        descriptor = (int (*)(struct fuse_session *))callers(caller, "fuse_session_fd");
        if (receive == NULL || process == NULL || descriptor == NULL) {
            receive = NULL;
            return -ENOSYS;
        }
    }
    if (dvfs_zeroopen_device < 0) {
        dvfs_zeroopen_device = descriptor(se);
        fcntl(dvfs_zeroopen_device, F_SETFL, fcntl(dvfs_zeroopen_device, F_GETFL) | O_NONBLOCK);
        dvfs_watch_over(se, receive, dvfs_zeroopen_device, original.ioctl == NULL);
    }
    if (dvfs_zeroopen_begins) {
        struct fuse_buf kept = {.size = (size_t)dvfs_zeroopen_init_size, .mem = dvfs_zeroopen_init, .fd = -1};

        dvfs_zeroopen_begins = 0;
        if (kept.size == 0 || !process_init(se, &kept, 0, process))
            return -EIO;
    }
    for (kept = dvfs_watch_take(buf);; kept = 0) {
        got = kept ? kept : receive(se, buf);
        if (got > 0 && is_answered_here(buf, got)) {
            process(se, buf);
            dvfs_zeroopen_answered += ready_size == 0; /* of reads Python takes note */
            ready_size = 0;
            if (++answered == ANSWERED_AT_ONCE)
                return -EINTR;
            wait_ns = ((struct fuse_in_header *)buf->mem)->opcode == FUSE_GETXATTR ? NEXT_QUESTION_NS : dvfs_zeroopen_wait_ns;
        } else if (got == -EAGAIN && wait_ns > 0 && is_next_soon(wait_ns)) {
            wait_ns = 0; /* it may have gone to another process */
        } else {
            break;
        }
    }
    dvfs_zeroopen_idle = got == -EAGAIN;
    return got == -EAGAIN ? -EINTR : got;
}

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_zeroopen", "A library to load before pyfuse3; empty as a module.", -1, NULL, NULL, NULL,
    NULL, NULL};

PyMODINIT_FUNC PyInit__zeroopen(void)
{
    return PyModule_Create(&module);
}
