/*
 * A passthrough: shows the directory SOURCE at MOUNTPOINT and hands every call on to the file system below.
 *
 *     passthrough SOURCE MOUNTPOINT           stays in the foreground until it is unmounted
 *
 * What FUSE itself costs, in C and with nothing to do: a reference for writable mounts. As in passthroughs usually, an
 * inode is a descriptor opened with O_PATH, found again by device and number for as long as the kernel knows it. Where
 * descriptors run short, a further file is a handle by which one is opened for a moment (root only). Names and
 * attributes are cached by the kernel without limit, and it may hold back what is written. Hard links, extended
 * attributes, locks and splice are left out.
 */
#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64
#define FUSE_USE_VERSION 35

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse3/fuse_lowlevel.h>
#include <limits.h>
#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define FOREVER_SECONDS 86400.0
#define MOST_OPEN_FILES (1024 * 1024)
#define SPARE_DESCRIPTORS 256 /* for files that are open, and for a moment */
#define BUCKETS 65536

struct inode {
    struct inode *next;
    int fd; /* or -1: *handle* instead */
    struct file_handle *handle;
    dev_t dev;
    ino_t ino;
    uint64_t lookups;
};

static struct inode root;
static struct inode *buckets[BUCKETS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* over buckets, lookups and held */
static rlim_t held, most_held;

static struct inode *inode_of(fuse_ino_t number)
{
    return number == FUSE_ROOT_ID ? &root : (struct inode *)(uintptr_t)number;
}

/* The descriptor of a directory, which always has one. */
static int folder(fuse_ino_t number)
{
    return inode_of(number)->fd;
}

/* Returns a descriptor to give back, or -1 with errno. */
static int borrow(fuse_ino_t number)
{
    struct inode *inode = inode_of(number);

    return inode->fd >= 0 ? inode->fd : open_by_handle_at(root.fd, inode->handle, O_PATH | O_NOFOLLOW | O_CLOEXEC);
}

static void give_back(fuse_ino_t number, int fd)
{
    int error = errno;

    if (fd >= 0 && fd != inode_of(number)->fd)
        close(fd);
    errno = error;
}

/* The path by which what is open with O_PATH is opened, or changed, after all. */
struct path {
    char text[32];
};

static struct path path_of(int fd)
{
    struct path path;

    snprintf(path.text, sizeof path.text, "/proc/self/fd/%d", fd);
    return path;
}

/* Returns the handle of what *fd* is open for, or NULL. */
static struct file_handle *handle_of(int fd)
{
    struct file_handle *handle = malloc(sizeof *handle + MAX_HANDLE_SZ);
    int mount_id;

    if (handle) {
        handle->handle_bytes = MAX_HANDLE_SZ;
        if (name_to_handle_at(fd, "", handle, &mount_id, AT_EMPTY_PATH) == 0)
            return handle;
        free(handle);
    }
    return NULL;
}

static struct inode **bucket_of(ino_t ino)
{
    return &buckets[(ino * 0x9e3779b97f4a7c15ull) >> 48];
}

/* Fills *entry* with what *name* in *parent* is, one more time looked up. Returns an errno, or 0. */
static int look_up(fuse_ino_t parent, const char *name, struct fuse_entry_param *entry)
{
    struct inode *inode, **bucket;
    int fd = openat(folder(parent), name, O_PATH | O_NOFOLLOW | O_CLOEXEC);

    if (fd < 0)
        return errno;
    memset(entry, 0, sizeof *entry);
    entry->attr_timeout = entry->entry_timeout = FOREVER_SECONDS;
    if (fstatat(fd, "", &entry->attr, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) < 0) {
        int error = errno;
        close(fd);
        return error;
    }
    bucket = bucket_of(entry->attr.st_ino);
    pthread_mutex_lock(&lock);
    for (inode = *bucket; inode; inode = inode->next)
        if (inode->ino == entry->attr.st_ino && inode->dev == entry->attr.st_dev)
            break;
    if (inode) {
        close(fd);
    } else if ((inode = calloc(1, sizeof *inode)) != NULL) {
        *inode = (struct inode){.next = *bucket, .fd = fd, .dev = entry->attr.st_dev, .ino = entry->attr.st_ino};
        *bucket = inode;
        if (held >= most_held && !S_ISDIR(entry->attr.st_mode) && (inode->handle = handle_of(fd)) != NULL) {
            inode->fd = -1;
            close(fd);
        } else {
            held++;
        }
    }
    if (inode)
        inode->lookups++;
    pthread_mutex_unlock(&lock);
    if (!inode) {
        close(fd);
        return ENOMEM;
    }
    entry->ino = (uintptr_t)inode;
    return 0;
}

static void forget_one(fuse_ino_t number, uint64_t count)
{
    struct inode *inode = inode_of(number), **link;

    if (inode == &root)
        return;
    pthread_mutex_lock(&lock);
    inode->lookups -= count;
    if (inode->lookups == 0) {
        for (link = bucket_of(inode->ino); *link != inode; link = &(*link)->next)
            ;
        *link = inode->next;
        if (inode->fd >= 0) {
            close(inode->fd);
            held--;
        }
        free(inode->handle);
        free(inode);
    }
    pthread_mutex_unlock(&lock);
}

static void reply_errno(fuse_req_t req, int result)
{
    fuse_reply_err(req, result < 0 ? errno : 0);
}

/* Replies to what made *name* in *parent*, with *result*. */
static void reply_made(fuse_req_t req, fuse_ino_t parent, const char *name, int result)
{
    struct fuse_entry_param entry;
    int error = result < 0 ? errno : look_up(parent, name, &entry);

    if (error)
        fuse_reply_err(req, error);
    else
        fuse_reply_entry(req, &entry);
}

/* A kernel that holds back what is written reads what a block of it lacks, and says itself where it is appended. */
static int flags_below(int flags)
{
    if ((flags & O_ACCMODE) == O_WRONLY)
        flags = (flags & ~O_ACCMODE) | O_RDWR;
    return (flags & ~(O_APPEND | O_NOFOLLOW)) | O_CLOEXEC;
}

static void do_init(void *userdata, struct fuse_conn_info *conn)
{
    (void)userdata;
    conn->want |= conn->capable & FUSE_CAP_WRITEBACK_CACHE;
}

static void do_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    reply_made(req, parent, name, 0);
}

static void do_forget(fuse_req_t req, fuse_ino_t number, uint64_t count)
{
    forget_one(number, count);
    fuse_reply_none(req);
}

static void do_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
    for (size_t i = 0; i < count; i++)
        forget_one(forgets[i].ino, forgets[i].nlookup);
    fuse_reply_none(req);
}

static void do_getattr(fuse_req_t req, fuse_ino_t number, struct fuse_file_info *fi)
{
    struct stat attr;
    int fd = borrow(number);
    int result = fd < 0 ? -1 : fstatat(fd, "", &attr, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW);

    (void)fi;
    give_back(number, fd);
    if (result < 0)
        fuse_reply_err(req, errno);
    else
        fuse_reply_attr(req, &attr, FOREVER_SECONDS);
}

static struct timespec time_to_set(int valid, int set, int now, struct timespec given)
{
    struct timespec left = {0, UTIME_OMIT}, current = {0, UTIME_NOW};

    return valid & now ? current : valid & set ? given : left;
}

static int set_attributes(int fd, const struct stat *attr, int valid, const struct fuse_file_info *fi)
{
    struct path path = path_of(fd);

    if (valid & FUSE_SET_ATTR_MODE && chmod(path.text, attr->st_mode) < 0)
        return -1;
    if (valid & (FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID)) {
        uid_t uid = valid & FUSE_SET_ATTR_UID ? attr->st_uid : (uid_t)-1;
        gid_t gid = valid & FUSE_SET_ATTR_GID ? attr->st_gid : (gid_t)-1;

        if (fchownat(fd, "", uid, gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) < 0)
            return -1;
    }
    if (valid & FUSE_SET_ATTR_SIZE) {
        if ((fi ? ftruncate(fi->fh, attr->st_size) : truncate(path.text, attr->st_size)) < 0)
            return -1;
    }
    if (valid & (FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_MTIME)) {
        struct timespec times[2] = {
            time_to_set(valid, FUSE_SET_ATTR_ATIME, FUSE_SET_ATTR_ATIME_NOW, attr->st_atim),
            time_to_set(valid, FUSE_SET_ATTR_MTIME, FUSE_SET_ATTR_MTIME_NOW, attr->st_mtim),
        };

        return fi ? futimens(fi->fh, times) : utimensat(AT_FDCWD, path.text, times, 0);
    }
    return 0;
}

static void do_setattr(fuse_req_t req, fuse_ino_t number, struct stat *attr, int valid, struct fuse_file_info *fi)
{
    int fd = borrow(number);
    int result = fd < 0 ? -1 : set_attributes(fd, attr, valid, fi);

    give_back(number, fd);
    if (result < 0)
        fuse_reply_err(req, errno);
    else
        do_getattr(req, number, fi);
}

static void do_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
    reply_made(req, parent, name, mkdirat(folder(parent), name, mode));
}

static void do_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
    reply_made(req, parent, name, mknodat(folder(parent), name, mode, rdev));
}

static void do_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
    reply_made(req, parent, name, symlinkat(target, folder(parent), name));
}

static void do_readlink(fuse_req_t req, fuse_ino_t number)
{
    char target[PATH_MAX + 1];
    int fd = borrow(number);
    ssize_t size = fd < 0 ? -1 : readlinkat(fd, "", target, sizeof target - 1);

    give_back(number, fd);
    if (size < 0) {
        fuse_reply_err(req, errno);
        return;
    }
    target[size] = '\0';
    fuse_reply_readlink(req, target);
}

static void do_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    reply_errno(req, unlinkat(folder(parent), name, 0));
}

static void do_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    reply_errno(req, unlinkat(folder(parent), name, AT_REMOVEDIR));
}

static void do_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent, const char *new_name,
                      unsigned flags)
{
    reply_errno(req, renameat2(folder(parent), name, folder(new_parent), new_name, flags));
}

static void do_open(fuse_req_t req, fuse_ino_t number, struct fuse_file_info *fi)
{
    int named = borrow(number);
    int fd = named < 0 ? -1 : open(path_of(named).text, flags_below(fi->flags));

    give_back(number, named);
    if (fd < 0) {
        fuse_reply_err(req, errno);
        return;
    }
    fi->fh = fd;
    fi->keep_cache = 1;
    fuse_reply_open(req, fi);
}

static void do_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *fi)
{
    struct fuse_entry_param entry;
    int error, fd = openat(folder(parent), name, flags_below(fi->flags) | O_CREAT | O_NOFOLLOW, mode);

    if (fd < 0) {
        fuse_reply_err(req, errno);
        return;
    }
    error = look_up(parent, name, &entry);
    if (error) {
        close(fd);
        fuse_reply_err(req, error);
        return;
    }
    fi->fh = fd;
    fi->keep_cache = 1;
    fuse_reply_create(req, &entry, fi);
}

static void do_read(fuse_req_t req, fuse_ino_t number, size_t size, off_t offset, struct fuse_file_info *fi)
{
    char *buffer = malloc(size);
    ssize_t done = buffer ? pread(fi->fh, buffer, size, offset) : -1;

    (void)number;
    if (done < 0)
        fuse_reply_err(req, errno);
    else
        fuse_reply_buf(req, buffer, done);
    free(buffer);
}

static void do_write(fuse_req_t req, fuse_ino_t number, const char *buffer, size_t size, off_t offset,
                     struct fuse_file_info *fi)
{
    ssize_t done = pwrite(fi->fh, buffer, size, offset);

    (void)number;
    if (done < 0)
        fuse_reply_err(req, errno);
    else
        fuse_reply_write(req, done);
}

static void do_fsync(fuse_req_t req, fuse_ino_t number, int datasync, struct fuse_file_info *fi)
{
    (void)number;
    reply_errno(req, datasync ? fdatasync(fi->fh) : fsync(fi->fh));
}

static void do_release(fuse_req_t req, fuse_ino_t number, struct fuse_file_info *fi)
{
    (void)number;
    close(fi->fh);
    fuse_reply_err(req, 0);
}

static void do_opendir(fuse_req_t req, fuse_ino_t number, struct fuse_file_info *fi)
{
    int fd = openat(folder(number), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *listing = fd < 0 ? NULL : fdopendir(fd);

    if (!listing) {
        int error = errno;
        if (fd >= 0)
            close(fd);
        fuse_reply_err(req, error);
        return;
    }
    fi->fh = (uintptr_t)listing;
    fuse_reply_open(req, fi);
}

static void do_readdir(fuse_req_t req, fuse_ino_t number, size_t size, off_t offset, struct fuse_file_info *fi)
{
    DIR *listing = (DIR *)(uintptr_t)fi->fh;
    char *buffer = malloc(size);
    size_t used = 0;
    struct dirent *found;

    (void)number;
    if (!buffer) {
        fuse_reply_err(req, ENOMEM);
        return;
    }
    if (offset != telldir(listing))
        seekdir(listing, offset);
    while ((found = readdir(listing)) != NULL) {
        struct stat attr = {.st_ino = found->d_ino, .st_mode = DTTOIF(found->d_type)};
        size_t needed = fuse_add_direntry(req, buffer + used, size - used, found->d_name, &attr, found->d_off);

        if (needed > size - used)
            break; /* the kernel asks again from the last one that it got */
        used += needed;
    }
    fuse_reply_buf(req, buffer, used);
    free(buffer);
}

static void do_releasedir(fuse_req_t req, fuse_ino_t number, struct fuse_file_info *fi)
{
    (void)number;
    closedir((DIR *)(uintptr_t)fi->fh);
    fuse_reply_err(req, 0);
}

static const struct fuse_lowlevel_ops operations = {
    .init = do_init,
    .lookup = do_lookup,
    .forget = do_forget,
    .forget_multi = do_forget_multi,
    .getattr = do_getattr,
    .setattr = do_setattr,
    .mkdir = do_mkdir,
    .mknod = do_mknod,
    .symlink = do_symlink,
    .readlink = do_readlink,
    .unlink = do_unlink,
    .rmdir = do_rmdir,
    .rename = do_rename,
    .open = do_open,
    .create = do_create,
    .read = do_read,
    .write = do_write,
    .fsync = do_fsync,
    .release = do_release,
    .opendir = do_opendir,
    .readdir = do_readdir,
    .releasedir = do_releasedir,
};

/* Nearly every file that the kernel knows is a descriptor: as many as may be. */
static void allow_open_files(void)
{
    struct rlimit limit = {MOST_OPEN_FILES, MOST_OPEN_FILES};

    if (setrlimit(RLIMIT_NOFILE, &limit) < 0 && getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
    most_held = limit.rlim_cur > SPARE_DESCRIPTORS ? limit.rlim_cur - SPARE_DESCRIPTORS : 0;
}

int main(int argc, char *argv[])
{
    char *options[] = {argv[0], "-o", "fsname=passthrough,default_permissions", NULL};
    struct fuse_args args = FUSE_ARGS_INIT(3, options);
    struct fuse_loop_config config = {.clone_fd = 0, .max_idle_threads = 10};
    struct fuse_session *session;
    int failed = 1;

    if (argc != 3) {
        fprintf(stderr, "usage: %s SOURCE MOUNTPOINT\n", argv[0]);
        return 2;
    }
    allow_open_files();
    mallopt(M_MMAP_THRESHOLD, 16 * 1024 * 1024); /* buffers of requests are not mapped anew each time */
    mallopt(M_TRIM_THRESHOLD, 64 * 1024 * 1024);
    umask(0); /* the kernel has applied the caller's */
    root.fd = open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC); /* handles are opened by it */
    if (root.fd < 0) {
        perror(argv[1]);
        return 1;
    }
    session = fuse_session_new(&args, &operations, sizeof operations, NULL);
    if (!session)
        return 1;
    if (fuse_set_signal_handlers(session) == 0) {
        if (fuse_session_mount(session, argv[2]) == 0) {
            failed = fuse_session_loop_mt(session, &config) != 0;
            fuse_session_unmount(session);
        }
        fuse_remove_signal_handlers(session);
    }
    fuse_session_destroy(session);
    return failed;
}
