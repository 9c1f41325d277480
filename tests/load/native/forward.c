/* Bare UDP forwarders: `forward plain|nap|crypto`, recvmmsg and sendmmsg in batches of 64, one thread, one socket.
 *
 * plain sends each packet on as it is. nap does so, too, but lets packets gather for a millisecond before each
 * batch: it is late whenever the machine's timers are. crypto opens and seals it as a QUIC relay must, with OpenSSL and one
 * EVP_CIPHER_CTX per connection and direction: 1-RTT packets, 8-byte ids, AES-128-GCM, header masks of AES-ECB.
 * The table comes on standard input, a line per end, and may grow while packets flow:
 *   PORT PEER_PORT [IN_ID OUT_ID IN_KEY IN_IV IN_HP OUT_KEY OUT_IV OUT_HP]        in: what it sends to us
 * Prints its port; ends with its standard input. Must never live here: any guard or rule; this is a yardstick.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>

enum { BATCH = 64, SIZE = 2048, ID = 8, HEAD = 1 + ID, TAG = 16, IV = 12, BUFFER = 4 << 20 };

struct way {
    EVP_CIPHER_CTX *gcm, *ecb;
    unsigned char iv[IV], id[ID];
    unsigned long number; /* in: expected; out: next */
};

struct end {
    struct sockaddr_in addr;
    unsigned peer;
    struct way in, out;
};

static struct end *ends[65536];
static int is_crypto;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void unhex(const char *text, unsigned char *out, size_t size) {
    for (size_t i = 0; i < size; i++) {
        unsigned value;
        if (sscanf(text + 2 * i, "%2x", &value) != 1) exit(2);
        out[i] = (unsigned char)value;
    }
}

static void prepare(struct way *way, char id[], char key[], char iv[], char hp[], int is_in) {
    unsigned char bytes[16];
    unhex(id, way->id, ID);
    unhex(iv, way->iv, IV);
    way->gcm = EVP_CIPHER_CTX_new();
    way->ecb = EVP_CIPHER_CTX_new();
    unhex(key, bytes, sizeof bytes);
    if (!EVP_CipherInit_ex(way->gcm, EVP_aes_128_gcm(), NULL, bytes, NULL, !is_in)) exit(2);
    unhex(hp, bytes, sizeof bytes);
    if (!EVP_EncryptInit_ex(way->ecb, EVP_aes_128_ecb(), NULL, bytes, NULL)) exit(2);
    EVP_CIPHER_CTX_set_padding(way->ecb, 0);
}

static void *read_table(void *unused) {
    static char line[1024], w[8][64];
    unsigned port, peer;
    while (fgets(line, sizeof line, stdin)) {
        int got = sscanf(line, "%u %u %63s %63s %63s %63s %63s %63s %63s %63s", &port, &peer, w[0], w[1], w[2],
                         w[3], w[4], w[5], w[6], w[7]);
        if (got != (is_crypto ? 10 : 2) || port > 65535 || peer > 65535) exit(2);
        struct end *end = calloc(1, sizeof *end);
        if (!end) fail("calloc");
        end->addr.sin_family = AF_INET;
        end->addr.sin_port = htons((unsigned short)port);
        end->addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        end->peer = peer;
        if (is_crypto) {
            prepare(&end->in, w[0], w[2], w[3], w[4], 1);
            prepare(&end->out, w[1], w[5], w[6], w[7], 0);
        }
        __atomic_store_n(&ends[port], end, __ATOMIC_RELEASE);
    }
    exit(0);
    return unused;
}

static int apply_mask(struct way *way, const unsigned char *sample, unsigned char mask[16]) {
    int length;
    return EVP_EncryptUpdate(way->ecb, mask, &length, sample, 16);
}

static void nonce_of(const struct way *way, unsigned long number, unsigned char nonce[IV]) {
    memcpy(nonce, way->iv, IV);
    for (int i = 0; i < 8; i++) nonce[IV - 1 - i] ^= (unsigned char)(number >> 8 * i);
}

/* Open the packet with the sender's keys, seal it with the listener's; its new length, 0 when it does not open. */
static int reseal(struct way *in, struct way *out, unsigned char *data, int size) {
    unsigned char mask[16], nonce[IV];
    int length;
    if (size < HEAD + 4 + TAG || memcmp(data + 1, in->id, ID) || !apply_mask(in, data + HEAD + 4, mask)) return 0;
    data[0] ^= mask[0] & 0x1f;
    int bytes = (data[0] & 3) + 1, body = HEAD + bytes, plain = size - body - TAG;
    if (bytes != 2 || plain < 0) return 0; /* all of ours have two: the packet is sealed where it was opened */
    data[HEAD] ^= mask[1];
    data[HEAD + 1] ^= mask[2];
    unsigned long low = (unsigned long)data[HEAD] << 8 | data[HEAD + 1];
    unsigned long number = (in->number & ~0xfffful) | low;
    if (number + 0x8000 <= in->number) number += 0x10000;
    else if (number > in->number + 0x8000 && number >= 0x10000) number -= 0x10000;
    nonce_of(in, number, nonce);
    if (!EVP_DecryptInit_ex(in->gcm, NULL, NULL, NULL, nonce) ||
        !EVP_DecryptUpdate(in->gcm, NULL, &length, data, body) ||
        !EVP_DecryptUpdate(in->gcm, data + body, &length, data + body, plain) ||
        !EVP_CIPHER_CTX_ctrl(in->gcm, EVP_CTRL_AEAD_SET_TAG, TAG, data + body + plain) ||
        EVP_DecryptFinal_ex(in->gcm, data + body + plain, &length) <= 0)
        return 0;
    if (number >= in->number) in->number = number + 1;
    number = out->number++;
    data[0] = 0x41;
    memcpy(data + 1, out->id, ID);
    data[HEAD] = (unsigned char)(number >> 8);
    data[HEAD + 1] = (unsigned char)number;
    nonce_of(out, number, nonce);
    if (!EVP_EncryptInit_ex(out->gcm, NULL, NULL, NULL, nonce) ||
        !EVP_EncryptUpdate(out->gcm, NULL, &length, data, body) ||
        !EVP_EncryptUpdate(out->gcm, data + body, &length, data + body, plain) ||
        !EVP_EncryptFinal_ex(out->gcm, data + body + plain, &length) ||
        !EVP_CIPHER_CTX_ctrl(out->gcm, EVP_CTRL_AEAD_GET_TAG, TAG, data + body + plain) ||
        !apply_mask(out, data + HEAD + 4, mask))
        return 0;
    data[0] ^= mask[0] & 0x1f;
    data[HEAD] ^= mask[1];
    data[HEAD + 1] ^= mask[2];
    return size;
}

int main(int argc, char **argv) {
    static unsigned char data[BATCH][SIZE];
    static struct iovec in_iov[BATCH], out_iov[BATCH];
    static struct mmsghdr in[BATCH], out[BATCH];
    static struct sockaddr_in from[BATCH];
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof here;
    pthread_t reader;
    struct timespec nap = {.tv_nsec = 1000000};
    int buffer = BUFFER, sock = socket(AF_INET, SOCK_DGRAM, 0);
    int naps = argc == 2 && !strcmp(argv[1], "nap");
    is_crypto = argc == 2 && !strcmp(argv[1], "crypto");
    if (argc != 2 || (!is_crypto && !naps && strcmp(argv[1], "plain"))) return 2;
    prctl(PR_SET_TIMERSLACK, 1000UL); /* ns */
    if (sock < 0 || bind(sock, (struct sockaddr *)&here, sizeof here)) fail("bind");
    setsockopt(sock, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer);
    setsockopt(sock, SOL_SOCKET, SO_SNDBUF, &buffer, sizeof buffer);
    getsockname(sock, (struct sockaddr *)&here, &length);
    printf("%d\n", ntohs(here.sin_port));
    fflush(stdout);
    if (pthread_create(&reader, NULL, read_table, NULL)) fail("pthread_create");
    for (int i = 0; i < BATCH; i++) {
        in_iov[i] = (struct iovec){data[i], SIZE};
        in[i].msg_hdr = (struct msghdr){.msg_name = &from[i], .msg_iov = &in_iov[i], .msg_iovlen = 1};
        out[i].msg_hdr = (struct msghdr){.msg_namelen = sizeof here, .msg_iov = &out_iov[i], .msg_iovlen = 1};
    }
    for (;;) {
        for (int i = 0; i < BATCH; i++) in[i].msg_hdr.msg_namelen = sizeof from[i];
        int got = recvmmsg(sock, in, BATCH, MSG_WAITFORONE, NULL), count = 0;
        for (int i = 0; i < got; i++) {
            struct end *end = __atomic_load_n(&ends[ntohs(from[i].sin_port)], __ATOMIC_ACQUIRE);
            struct end *peer = end ? __atomic_load_n(&ends[end->peer], __ATOMIC_ACQUIRE) : NULL;
            int size = (int)in[i].msg_len;
            if (!peer) continue;
            if (is_crypto && !(size = reseal(&end->in, &peer->out, data[i], size))) continue;
            out_iov[count] = (struct iovec){data[i], (size_t)size};
            out[count++].msg_hdr.msg_name = &peer->addr;
        }
        for (int sent = 0; sent < count;) {
            int done = sendmmsg(sock, out + sent, (unsigned)(count - sent), 0);
            sent += done > 0 ? done : 1; /* what the kernel does not take is lost */
        }
        if (naps && got < BATCH) nanosleep(&nap, NULL);
    }
}
