#include <stdlib.h>
#include <string.h>

#include "link.h"

void put_bytes(struct body *b, const void *p, size_t n)
{
  if (b->failed)
    return;
  unsigned char *grown = realloc(b->data, b->len + n);
  if (grown == NULL) {
    b->failed = 1;
    return;
  }
  b->data = grown;
  memcpy(b->data + b->len, p, n);
  b->len += n;
}

void put_be(struct body *b, uint64_t v, int bytes)
{
  unsigned char p[8];
  for (int i = 0; i < bytes; i++)
    p[i] = (unsigned char)(v >> (8 * (bytes - 1 - i)));
  put_bytes(b, p, (size_t)bytes);
}

void put_u8(struct body *b, uint8_t v) { put_be(b, v, 1); }
void put_u32(struct body *b, uint32_t v) { put_be(b, v, 4); }
void put_u64(struct body *b, uint64_t v) { put_be(b, v, 8); }

void put_str(struct body *b, const char *s)
{
  size_t n = s ? strlen(s) : 0;
  if (n > UINT16_MAX) {
    b->failed = 1;
    return;
  }
  put_be(b, n, 2);
  put_bytes(b, s, n);
}

uint64_t get_be(const unsigned char *p, int bytes)
{
  uint64_t v = 0;
  for (int i = 0; i < bytes; i++)
    v = v << 8 | p[i];
  return v;
}

uint32_t get_u32(const unsigned char *p) { return (uint32_t)get_be(p, 4); }
uint64_t get_u64(const unsigned char *p) { return get_be(p, 8); }
