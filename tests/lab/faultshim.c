/* What the kernel and the clock of the machine would do on a bad day, for one process: LD_PRELOAD it.
 *
 *   RELAY_FAULTS=FILE    a file that is mapped by both sides, `struct faults` below (faultshim.py writes it)
 *
 * While all of it is zero every call goes on as it is. Must never live here: when something fails.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

struct faults {
    int64_t send_errno;  /* UDP packets are refused with this; 0: none */
    int64_t send_every;  /* one call of so many; 1: all */
    int64_t recv_errno;  /* reading UDP fails with this */
    int64_t wall_offset; /* seconds that the wall clock is ahead */
    int64_t wall_fails;  /* so many times the wall clock cannot be read in a thread of the lane */
    int64_t sends;       /* calls counted */
    int64_t refused;     /* of them, refused */
    int64_t unread;      /* reads that failed */
    int64_t clockless;   /* looks at the clock that failed */
};

static struct faults nothing;
static struct faults *volatile faults = &nothing;
static int (*real_clock)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void)
{
    real_clock = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    const char *path = getenv("RELAY_FAULTS");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *at = mmap(NULL, sizeof(struct faults), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (at != MAP_FAILED)
        faults = at;
}

static int is_udp(int fd)
{
    int kind = 0, family = 0;
    socklen_t size = sizeof(kind);
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &kind, &size) || kind != SOCK_DGRAM)
        return 0;
    size = sizeof(family);
    return !getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &size) && (family == AF_INET || family == AF_INET6);
}

static int refuses_send(int fd)
{
    int64_t number = faults->send_errno;
    if (!number || !is_udp(fd))
        return 0;
    int64_t every = faults->send_every > 0 ? faults->send_every : 1;
    if (__atomic_add_fetch(&faults->sends, 1, __ATOMIC_RELAXED) % every)
        return 0;
    __atomic_add_fetch(&faults->refused, 1, __ATOMIC_RELAXED);
    errno = (int)number;
    return 1;
}

static int refuses_read(int fd)
{
    int64_t number = faults->recv_errno;
    if (!number || !is_udp(fd))
        return 0;
    __atomic_add_fetch(&faults->unread, 1, __ATOMIC_RELAXED);
    errno = (int)number;
    return 1;
}

ssize_t send(int fd, const void *data, size_t size, int flags)
{
    return refuses_send(fd) ? -1 : syscall(SYS_sendto, fd, data, size, flags, NULL, 0);
}

ssize_t sendto(int fd, const void *data, size_t size, int flags, const struct sockaddr *to, socklen_t length)
{
    return refuses_send(fd) ? -1 : syscall(SYS_sendto, fd, data, size, flags, to, length);
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
    return refuses_send(fd) ? -1 : syscall(SYS_sendmsg, fd, message, flags);
}

int sendmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags)
{
    return refuses_send(fd) ? -1 : (int)syscall(SYS_sendmmsg, fd, messages, count, flags);
}

ssize_t recvfrom(int fd, void *data, size_t size, int flags, struct sockaddr *from, socklen_t *length)
{
    return refuses_read(fd) ? -1 : syscall(SYS_recvfrom, fd, data, size, flags, from, length);
}

ssize_t recvmsg(int fd, struct msghdr *message, int flags)
{
    return refuses_read(fd) ? -1 : syscall(SYS_recvmsg, fd, message, flags);
}

int recvmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags, struct timespec *timeout)
{
    return refuses_read(fd) ? -1 : (int)syscall(SYS_recvmmsg, fd, messages, count, flags, timeout);
}

static int loses_the_clock(void)
{
    char name[17] = "";
    if (faults->wall_fails <= 0)
        return 0;
    prctl(PR_GET_NAME, name);
    if (strncmp(name, "lane-", 5) || __atomic_fetch_sub(&faults->wall_fails, 1, __ATOMIC_RELAXED) <= 0)
        return 0;
    __atomic_add_fetch(&faults->clockless, 1, __ATOMIC_RELAXED);
    return 1;
}

int clock_gettime(clockid_t clock, struct timespec *at)
{
    int is_wall = clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE;
    if (is_wall && loses_the_clock()) {
        errno = EINVAL;
        return -1;
    }
    int result = real_clock ? real_clock(clock, at) : (int)syscall(SYS_clock_gettime, clock, at);
    if (is_wall && !result)
        at->tv_sec += faults->wall_offset;
    return result;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone)
{
    (void)zone;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *at)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at)
        *at = now.tv_sec;
    return now.tv_sec;
}
