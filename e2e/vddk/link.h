/* A link is one TLS connection to the vCenter simulator, and the thread that speaks on it. The protocol is described with its server, in
 * e2e/vcenter/internal/vddk. */
#ifndef HAWSER_LINK_H
#define HAWSER_LINK_H

#include <stddef.h>

#include "vixdisklib.h"

enum op { OP_CONNECT = 1, OP_OPEN, OP_READ, OP_ALLOCATED, OP_CLOSE, OP_PREPARE, OP_END };

/* What InitEx's configuration file may say. The names in it are VMware's. */
struct settings {
  long accept_timeout_ms;  /* connecting and opening */
  long request_timeout_ms; /* anything else but reading */
  long read_timeout_ms;    /* 0 = wait for ever */
  size_t window;           /* bytes of reads in flight for one disk: nfcAio BufCount x BufSizeIn64K x 64 KiB */
};
extern struct settings settings;

/* To the log and warn functions given to InitEx. */
void vix_log(const char *format, ...) __attribute__((format(printf, 1, 2)));
void vix_warn(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* A request's body under construction; numbers are big-endian. */
struct body {
  unsigned char *data;
  size_t len;
  int failed; /* out of memory, or a string too long */
};
void put_bytes(struct body *b, const void *p, size_t n);
void put_be(struct body *b, uint64_t v, int bytes);
void put_u8(struct body *b, uint8_t v);
void put_u32(struct body *b, uint32_t v);
void put_u64(struct body *b, uint64_t v);
void put_str(struct body *b, const char *s);
uint64_t get_be(const unsigned char *p, int bytes);
uint32_t get_u32(const unsigned char *p);
uint64_t get_u64(const unsigned char *p);

struct link;

/* What is in flight for one disk; guarded by the link's lock. */
struct stream {
  size_t bytes;
  unsigned pending;
};

/* Connects, checks the certificate's SHA-1, upgrades, and starts the thread. The link is the caller's, with one reference. */
VixError link_start(const char *server, unsigned port, const char *thumbprint, struct link **link);
struct link *link_get(struct link *l);
/* The last reference ends thread and connection. */
void link_put(struct link *l);
int link_dead(struct link *l);

/* Sends a request and waits for its answer; the body is taken. The answer's body is the caller's to free; answer may be NULL. */
VixError link_call(struct link *l, enum op op, struct body *b, unsigned char **answer, size_t *length);
/* Sends a read. Not VIX_ASYNC: it was not sent, and no callback comes. */
VixError link_read(struct link *l, struct stream *s, struct body *b, unsigned char *buf, size_t length, VixDiskLibCompletionCB callback,
                   void *data);
/* Waits until no callback of the stream is outstanding. */
void link_drain(struct link *l, struct stream *s);

#endif
