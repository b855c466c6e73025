/* A watch over a FUSE session; see `_watch.c`. */
#ifndef DVFS_WATCH_H
#define DVFS_WATCH_H

#include <fuse3/fuse_lowlevel.h>

typedef int (*dvfs_receive)(struct fuse_session *, struct fuse_buf *);

/* Says how requests are received, and whether an ioctl is answered without Python. */
void dvfs_watch_over(struct fuse_session *se, dvfs_receive receive, int device, int answers_ioctls);

/* Returns the size of the request that the watch kept, which *buf* has then; 0 where it kept none. */
int dvfs_watch_take(struct fuse_buf *buf);

#endif
