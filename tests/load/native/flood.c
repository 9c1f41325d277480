/* First packets from spoofed sources: `flood PORT RATE SECONDS SEED`, prebuilt packets on standard input.
 *
 * Input: records of two bytes of length (big-endian) and a packet; half of them may get a new destination id for
 * each sending (first byte of the record's length has its top bit set). Sources are random addresses of 127/8 beside
 * 127.0/16 and random ports, from a raw socket. Loopback only: the destination is 127.0.0.1. Prints one JSON line.
 * Must never live here: anything that measures the relay.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/ip.h>
#include <netinet/udp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum { BATCH = 32, SIZE = 1500, POOL = 4096, ID_AT = 6, ID = 8, HEADERS = sizeof(struct iphdr) + sizeof(struct udphdr) };

static unsigned char pool[POOL][SIZE];
static int sizes[POOL], fresh[POOL];
static uint64_t state;

static uint64_t draw(void) {
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

int main(int argc, char **argv) {
    static unsigned char packets[BATCH][HEADERS + SIZE];
    static struct iovec vectors[BATCH];
    static struct mmsghdr headers[BATCH];
    if (argc != 5) return 2;
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    uint16_t port = htons((uint16_t)atoi(argv[1]));
    double rate = atof(argv[2]), seconds = atof(argv[3]);
    state = (uint64_t)atoll(argv[4]) * 0x9E3779B97F4A7C15u + 1;
    int count = 0, sock = socket(AF_INET, SOCK_RAW, IPPROTO_RAW), buffer = 4 << 20;
    if (sock < 0) {
        perror("a raw socket (CAP_NET_RAW is needed)");
        return 1;
    }
    setsockopt(sock, SOL_SOCKET, SO_SNDBUF, &buffer, sizeof buffer);
    for (int high; count < POOL && (high = getchar()) != EOF; count++) {
        int size = (high & 0x7f) << 8 | getchar();
        if (size > SIZE || fread(pool[count], 1, (size_t)size, stdin) != (size_t)size) return 2;
        sizes[count] = size;
        fresh[count] = high >> 7;
    }
    if (!count) return 2;
    for (int i = 0; i < BATCH; i++) {
        vectors[i].iov_base = packets[i];
        headers[i].msg_hdr =
            (struct msghdr){.msg_name = &to, .msg_namelen = sizeof to, .msg_iov = &vectors[i], .msg_iovlen = 1};
    }
    double start = now(), at = start;
    long sent = 0, refused = 0;
    for (; at < start + seconds; at = now()) {
        long due = (long)((at - start) * rate) - sent - refused;
        if (due < BATCH) {
            struct timespec wait = {0, 100000};
            nanosleep(&wait, NULL);
            continue;
        }
        for (int i = 0; i < BATCH; i++) {
            int which = (int)(draw() % (unsigned)count), size = sizes[which];
            struct iphdr *ip = (struct iphdr *)packets[i];
            struct udphdr *udp = (struct udphdr *)(packets[i] + sizeof *ip);
            uint32_t source = (uint32_t)(draw() >> 16);
            *ip = (struct iphdr){.version = 4, .ihl = 5, .ttl = 64, .protocol = IPPROTO_UDP};
            ip->tot_len = htons((uint16_t)(HEADERS + (unsigned)size));
            ip->saddr = htonl(0x7f010001u + source % 0x00fdfffdu);
            ip->daddr = to.sin_addr.s_addr;
            udp->source = htons((uint16_t)(1024 + draw() % 60000));
            udp->dest = port;
            udp->len = htons((uint16_t)(sizeof *udp + (unsigned)size));
            udp->check = 0;
            memcpy(packets[i] + HEADERS, pool[which], (size_t)size);
            uint64_t id = draw();
            if (fresh[which]) memcpy(packets[i] + HEADERS + ID_AT, &id, ID);
            vectors[i].iov_len = HEADERS + (size_t)size;
        }
        int done = sendmmsg(sock, headers, BATCH, MSG_DONTWAIT);
        if (done > 0) sent += done;
        refused += BATCH - (done > 0 ? done : 0);
    }
    printf("{\"sent\": %ld, \"refused\": %ld, \"seconds\": %.3f}\n", sent, refused, at - start);
    return 0;
}
