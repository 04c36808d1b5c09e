#include "link.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <gnutls/gnutls.h>
#include <limits.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
  REQUEST_HEADER = 16,
  ANSWER_HEADER = 24,
  MAX_TEXT = 64 << 10,  /* of an error */
  MAX_ANSWER = 8 << 20, /* block lists: 512 K chunks make at most 4 MiB of runs */
};

struct request {
  struct request *next;
  enum op op;
  uint64_t id;
  unsigned char *frame; /* header and body */
  size_t frame_len;
  long timeout_ms; /* 0 = none */
  long deadline;   /* monotonic ms, from when it was sent; 0 = none */

  unsigned char *buf; /* a read's */
  size_t buf_len;
  struct stream *stream;
  VixDiskLibCompletionCB callback;
  void *data;

  int done; /* a call's */
  VixError result;
  unsigned char *answer;
  size_t answer_len;
};

struct link {
  int fd;
  int wake;
  gnutls_session_t tls;
  gnutls_certificate_credentials_t creds;
  pthread_t thread;

  pthread_mutex_t lock;
  pthread_cond_t changed;
  unsigned refs;
  int stop;
  VixError dead; /* why, once it is */
  uint64_t next_id;
  struct request *queue, **queue_end; /* not sent */
  struct request *sent;

  /* The answer that is coming; the thread's alone. */
  unsigned char header[ANSWER_HEADER];
  size_t got; /* of header, then of header and body */
  size_t want;
  struct request *current;
  unsigned char *into;
  VixError error;
};

static long now_ms(void)
{
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000L + t.tv_nsec / 1000000L;
}

/* --- requests ---------------------------------------------------------------------------------------------------------------------- */

static void free_request(struct request *r)
{
  free(r->frame);
  free(r->answer);
  free(r);
}

/* Takes the body, and frees it in any case. */
static struct request *new_request(enum op op, struct body *b)
{
  struct request *r = b->failed ? NULL : calloc(1, sizeof *r);
  struct body frame = {0};
  if (r != NULL) {
    put_be(&frame, b->len, 4);
    put_be(&frame, op, 2);
    put_be(&frame, 0, 2);
    put_be(&frame, 0, 8); /* the id, once it is queued */
    put_bytes(&frame, b->data, b->len);
    r->op = op;
    r->frame = frame.data;
    r->frame_len = frame.len;
    r->timeout_ms = op == OP_READ || op == OP_ALLOCATED ? settings.read_timeout_ms
                    : op == OP_OPEN                     ? settings.accept_timeout_ms
                                                        : settings.request_timeout_ms;
  }
  free(b->data);
  *b = (struct body){0};
  if (r != NULL && frame.failed) {
    free_request(r);
    r = NULL;
  }
  return r;
}

/* --- the thread ------------------------------------------------------------------------------------------------------------------ */

/* Ends a request. The callback runs without the lock, and before the stream counts it as done: Wait returns after all callbacks. */
static void complete(struct link *l, struct request *r, VixError result)
{
  if (r->callback != NULL) {
    r->callback(r->data, result);
    pthread_mutex_lock(&l->lock);
    r->stream->pending--;
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->lock);
    free_request(r);
    return;
  }
  pthread_mutex_lock(&l->lock);
  r->result = result;
  r->done = 1;
  pthread_cond_broadcast(&l->changed);
  pthread_mutex_unlock(&l->lock);
}

/* A connection that failed once is of no use any more: everything that waits for it ends, and nothing new is taken. */
static void kill_link(struct link *l, VixError why)
{
  pthread_mutex_lock(&l->lock);
  if (l->dead == VIX_OK)
    l->dead = why;
  struct request *r = l->sent;
  l->sent = NULL;
  struct request **end = &r;
  while (*end != NULL)
    end = &(*end)->next;
  *end = l->queue;
  l->queue = NULL;
  l->queue_end = &l->queue;
  l->current = NULL;
  pthread_mutex_unlock(&l->lock);
  while (r != NULL) {
    struct request *next = r->next;
    complete(l, r, why);
    r = next;
  }
}

/* Sends all of p within the time-out; 0, or the error the link dies of. */
static VixError send_all(struct link *l, const unsigned char *p, size_t n, long timeout_ms)
{
  long until = timeout_ms ? now_ms() + timeout_ms : 0;
  while (n > 0) {
    ssize_t k = gnutls_record_send(l->tls, p, n);
    if (k > 0) {
      p += k;
      n -= (size_t)k;
    } else if (k == GNUTLS_E_AGAIN || k == GNUTLS_E_INTERRUPTED) {
      long left = until ? until - now_ms() : 1000;
      if (left <= 0)
        return VIX_E_HOST_TCP_SOCKET_ERROR;
      struct pollfd fd = {.fd = l->fd, .events = POLLOUT};
      poll(&fd, 1, (int)left);
    } else {
      return VIX_E_HOST_TCP_CONN_LOST;
    }
  }
  return VIX_OK;
}

/* Sends what is queued, as far as the streams' windows allow: the real library has BufCount buffers for a disk, too. */
static VixError send_queued(struct link *l)
{
  for (;;) {
    pthread_mutex_lock(&l->lock);
    struct request *r = l->queue;
    if (r == NULL || (r->stream && r->stream->bytes > 0 && r->stream->bytes + r->buf_len > settings.window)) {
      pthread_mutex_unlock(&l->lock);
      return VIX_OK;
    }
    l->queue = r->next;
    if (l->queue == NULL)
      l->queue_end = &l->queue;
    if (r->stream)
      r->stream->bytes += r->buf_len;
    r->deadline = r->timeout_ms ? now_ms() + r->timeout_ms : 0;
    r->next = l->sent;
    l->sent = r;
    pthread_mutex_unlock(&l->lock);
    VixError err = send_all(l, r->frame, r->frame_len, r->timeout_ms);
    if (err != VIX_OK)
      return err;
  }
}

/* Header complete: finds the request, and where the body goes. */
static VixError begin_answer(struct link *l)
{
  size_t length = get_be(l->header, 4);
  uint64_t op = get_be(l->header + 4, 2), id = get_be(l->header + 8, 8);
  l->error = get_be(l->header + 16, 8);
  struct request *r = l->sent;
  while (r != NULL && r->id != id)
    r = r->next;
  if (r == NULL || r->op != op)
    return VIX_E_HOST_TCP_SOCKET_ERROR;
  if (l->error != VIX_OK ? length > MAX_TEXT : r->op == OP_READ ? length != r->buf_len : length > MAX_ANSWER)
    return VIX_E_HOST_TCP_SOCKET_ERROR;
  if (l->error == VIX_OK && r->op == OP_READ) {
    l->into = r->buf;
  } else {
    r->answer = calloc(1, length + 1);
    if (r->answer == NULL)
      return VIX_E_OUT_OF_MEMORY;
    r->answer_len = length;
    l->into = r->answer;
  }
  l->current = r;
  l->want = ANSWER_HEADER + length;
  return VIX_OK;
}

static void end_answer(struct link *l)
{
  struct request *r = l->current;
  pthread_mutex_lock(&l->lock);
  struct request **at = &l->sent;
  while (*at != r)
    at = &(*at)->next;
  *at = r->next;
  if (r->stream)
    r->stream->bytes -= r->buf_len;
  pthread_mutex_unlock(&l->lock);
  l->current = NULL;
  l->got = 0;
  l->want = ANSWER_HEADER;
  if (l->error != VIX_OK && r->answer_len > 0) {
    if (strncmp((char *)r->answer, "[NFC ERROR]", 11) == 0)
      vix_warn("%s\n", (char *)r->answer);
    else
      vix_log("VixDiskLib: %s\n", (char *)r->answer);
  }
  complete(l, r, l->error);
}

/* Reads what has come. */
static VixError receive(struct link *l)
{
  for (;;) {
    unsigned char *p = l->got < ANSWER_HEADER ? l->header + l->got : l->into + (l->got - ANSWER_HEADER);
    ssize_t k = gnutls_record_recv(l->tls, p, l->want - l->got);
    if (k == GNUTLS_E_AGAIN || k == GNUTLS_E_INTERRUPTED)
      return VIX_OK;
    if (k <= 0)
      return VIX_E_HOST_TCP_CONN_LOST;
    l->got += (size_t)k;
    if (l->got == ANSWER_HEADER && l->current == NULL) {
      VixError err = begin_answer(l);
      if (err != VIX_OK)
        return err;
    }
    if (l->current != NULL && l->current->timeout_ms)
      l->current->deadline = now_ms() + l->current->timeout_ms;
    if (l->got == l->want && l->current != NULL)
      end_answer(l);
  }
}

/* How long to wait for something to happen; -1 = for ever, 0 = a request has waited too long already. */
static int patience(struct link *l)
{
  long first = 0, now = now_ms();
  for (struct request *r = l->sent; r != NULL; r = r->next)
    if (r->deadline && (first == 0 || r->deadline < first))
      first = r->deadline;
  return first == 0 ? -1 : first <= now ? 0 : first - now > INT_MAX ? INT_MAX : (int)(first - now);
}

static void *run(void *arg)
{
  struct link *l = arg;
  for (;;) {
    /* In this order: an answer may open the window for what is queued, and no wake would come for it. */
    VixError err = receive(l);
    if (err == VIX_OK)
      err = send_queued(l);
    if (err == VIX_OK) {
      pthread_mutex_lock(&l->lock);
      int idle = l->sent == NULL && l->queue == NULL;
      int stop = l->stop;
      pthread_mutex_unlock(&l->lock);
      if (stop && idle)
        return NULL;
      int wait = patience(l);
      if (wait == 0) {
        vix_warn("[NFC ERROR] no answer from the server in time\n");
        err = VIX_E_HOST_TCP_SOCKET_ERROR;
      } else {
        struct pollfd fds[2] = {{.fd = l->fd, .events = POLLIN}, {.fd = l->wake, .events = POLLIN}};
        poll(fds, 2, wait);
        uint64_t n;
        if (fds[1].revents && read(l->wake, &n, sizeof n) < 0 && errno != EAGAIN)
          err = VIX_E_FAIL;
      }
    }
    if (err != VIX_OK) {
      kill_link(l, err);
      return NULL;
    }
  }
}

static void wake(struct link *l)
{
  uint64_t one = 1;
  while (write(l->wake, &one, sizeof one) < 0 && errno == EINTR)
    ;
}

static VixError submit(struct link *l, struct request *r)
{
  pthread_mutex_lock(&l->lock);
  VixError err = l->dead;
  if (err == VIX_OK) {
    r->id = ++l->next_id;
    for (int i = 0; i < 8; i++)
      r->frame[8 + i] = (unsigned char)(r->id >> (8 * (7 - i)));
    if (r->stream)
      r->stream->pending++;
    *l->queue_end = r;
    l->queue_end = &r->next;
  }
  pthread_mutex_unlock(&l->lock);
  if (err == VIX_OK)
    wake(l);
  return err;
}

VixError link_call(struct link *l, enum op op, struct body *b, unsigned char **answer, size_t *length)
{
  struct request *r = new_request(op, b);
  if (r == NULL)
    return VIX_E_OUT_OF_MEMORY;
  VixError err = submit(l, r);
  if (err == VIX_OK) {
    pthread_mutex_lock(&l->lock);
    while (!r->done)
      pthread_cond_wait(&l->changed, &l->lock);
    pthread_mutex_unlock(&l->lock);
    err = r->result;
  }
  if (err == VIX_OK && answer != NULL) {
    *answer = r->answer;
    *length = r->answer_len;
    r->answer = NULL;
  }
  free_request(r);
  return err;
}

VixError link_read(struct link *l, struct stream *s, struct body *b, unsigned char *buf, size_t length, VixDiskLibCompletionCB callback,
                   void *data)
{
  struct request *r = new_request(OP_READ, b);
  if (r == NULL)
    return VIX_E_OUT_OF_MEMORY;
  r->buf = buf;
  r->buf_len = length;
  r->stream = s;
  r->callback = callback;
  r->data = data;
  VixError err = submit(l, r);
  if (err == VIX_OK)
    return VIX_ASYNC;
  free_request(r);
  return err;
}

void link_drain(struct link *l, struct stream *s)
{
  pthread_mutex_lock(&l->lock);
  while (s->pending > 0)
    pthread_cond_wait(&l->changed, &l->lock);
  pthread_mutex_unlock(&l->lock);
}

/* --- starting and ending --------------------------------------------------------------------------------------------------------- */

static int connect_one(const struct addrinfo *a, long timeout_ms)
{
  int fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, a->ai_protocol);
  if (fd < 0)
    return -1;
  if (connect(fd, a->ai_addr, a->ai_addrlen) < 0) {
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    int err = errno;
    socklen_t len = sizeof err;
    if (err != EINPROGRESS || poll(&p, 1, timeout_ms ? (int)timeout_ms : -1) != 1 ||
        getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len) < 0 || err != 0) {
      if (err == EINPROGRESS)
        err = ETIMEDOUT;
      close(fd);
      errno = err;
      return -1;
    }
  }
  return fd;
}

static int connect_server(const char *server, unsigned port)
{
  char service[16];
  struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list = NULL;
  snprintf(service, sizeof service, "%u", port);
  vix_log("VixDiskLib: Resolve host.\n");
  int err = getaddrinfo(server, service, &hints, &list);
  if (err != 0) {
    vix_log("Host address lookup for server %s failed: %s\n", server, gai_strerror(err));
    return -1;
  }
  int fd = -1;
  for (struct addrinfo *a = list; a != NULL && fd < 0; a = a->ai_next)
    fd = connect_one(a, settings.accept_timeout_ms);
  if (fd < 0)
    vix_log("Cannot connect to server %s:%u: %s\n", server, port, strerror(errno));
  freeaddrinfo(list);
  return fd;
}

/* The certificate's SHA-1 as "12:AB:...", and whether it is the expected one: hexadecimal digits of either case. */
static int check_thumbprint(gnutls_session_t tls, const char *expected)
{
  unsigned n = 0;
  const gnutls_datum_t *certs = gnutls_certificate_get_peers(tls, &n);
  unsigned char sha1[20];
  size_t len = sizeof sha1;
  if (n == 0 || gnutls_fingerprint(GNUTLS_DIG_SHA1, &certs[0], sha1, &len) < 0)
    return -1;
  char actual[3 * sizeof sha1 + 1];
  for (size_t i = 0; i < len; i++)
    snprintf(actual + 3 * i, 4, "%02X:", sha1[i]);
  actual[3 * len - 1] = '\0';
  if (expected != NULL && strcasecmp(actual, expected) == 0)
    return 0;
  vix_log("VixDiskLibVim: Failed to verify SSL certificate: actual thumbprint=%s expected=%s\n", actual, expected ? expected : "(none)");
  return -1;
}

static int handshake(struct link *l, const char *server, const char *thumbprint)
{
  int err = gnutls_certificate_allocate_credentials(&l->creds);
  if (err == 0)
    err = gnutls_init(&l->tls, GNUTLS_CLIENT | GNUTLS_NONBLOCK | GNUTLS_NO_SIGNAL);
  if (err == 0)
    err = gnutls_set_default_priority(l->tls);
  if (err == 0)
    err = gnutls_credentials_set(l->tls, GNUTLS_CRD_CERTIFICATE, l->creds);
  if (err == 0) {
    gnutls_server_name_set(l->tls, GNUTLS_NAME_DNS, server, strlen(server));
    gnutls_transport_set_int(l->tls, l->fd);
    long until = settings.accept_timeout_ms ? now_ms() + settings.accept_timeout_ms : 0;
    while ((err = gnutls_handshake(l->tls)) < 0 && !gnutls_error_is_fatal(err)) {
      long left = until ? until - now_ms() : 1000;
      struct pollfd p = {.fd = l->fd, .events = gnutls_record_get_direction(l->tls) ? POLLOUT : POLLIN};
      if (left <= 0) {
        err = GNUTLS_E_TIMEDOUT;
        break;
      }
      poll(&p, 1, (int)left);
    }
  }
  if (err < 0) {
    vix_log("VixDiskLibVim: TLS with %s failed: %s\n", server, gnutls_strerror(err));
    return -1;
  }
  return check_thumbprint(l->tls, thumbprint);
}

static int upgrade(struct link *l, const char *server)
{
  char text[4096];
  int n = snprintf(text, sizeof text, "GET /vddk HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: hawser-vddk/1\r\n\r\n", server);
  if (n < 0 || (size_t)n >= sizeof text || send_all(l, (unsigned char *)text, (size_t)n, settings.accept_timeout_ms) != VIX_OK)
    return -1;
  long until = settings.accept_timeout_ms ? now_ms() + settings.accept_timeout_ms : 0;
  size_t got = 0;
  /* One byte at a time: what follows the headers is not ours to take. */
  while (got < 4 || memcmp(text + got - 4, "\r\n\r\n", 4) != 0) {
    ssize_t k = got + 1 < sizeof text ? gnutls_record_recv(l->tls, text + got, 1) : 0;
    if (k == 1) {
      got++;
    } else if (k == GNUTLS_E_AGAIN || k == GNUTLS_E_INTERRUPTED) {
      long left = until ? until - now_ms() : 1000;
      struct pollfd p = {.fd = l->fd, .events = POLLIN};
      if (left <= 0)
        return -1;
      poll(&p, 1, (int)left);
    } else {
      return -1;
    }
  }
  text[got] = '\0';
  if (strncmp(text, "HTTP/1.1 101 ", 13) == 0)
    return 0;
  vix_log("VixDiskLib: Failed to start session. The server at %s answers: %.*s\n", server, (int)strcspn(text, "\r\n"), text);
  return -1;
}

static void free_link(struct link *l)
{
  if (l->tls != NULL)
    gnutls_deinit(l->tls);
  if (l->creds != NULL)
    gnutls_certificate_free_credentials(l->creds);
  if (l->fd >= 0)
    close(l->fd);
  if (l->wake >= 0)
    close(l->wake);
  pthread_mutex_destroy(&l->lock);
  pthread_cond_destroy(&l->changed);
  free(l);
}

VixError link_start(const char *server, unsigned port, const char *thumbprint, struct link **link)
{
  struct link *l = calloc(1, sizeof *l);
  if (l == NULL)
    return VIX_E_OUT_OF_MEMORY;
  l->queue_end = &l->queue;
  l->want = ANSWER_HEADER;
  l->refs = 1;
  pthread_mutex_init(&l->lock, NULL);
  pthread_cond_init(&l->changed, NULL);
  l->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  l->fd = connect_server(server, port);
  /* Whatever stands in the way, the real library (8.0) calls it "Unknown error", and only its log says more. */
  if (l->wake < 0 || l->fd < 0 || handshake(l, server, thumbprint) < 0 || upgrade(l, server) < 0 ||
      pthread_create(&l->thread, NULL, run, l) != 0) {
    free_link(l);
    return VIX_E_FAIL;
  }
  *link = l;
  return VIX_OK;
}

struct link *link_get(struct link *l)
{
  pthread_mutex_lock(&l->lock);
  l->refs++;
  pthread_mutex_unlock(&l->lock);
  return l;
}

void link_put(struct link *l)
{
  pthread_mutex_lock(&l->lock);
  unsigned left = --l->refs;
  if (left == 0)
    l->stop = 1;
  pthread_mutex_unlock(&l->lock);
  if (left > 0)
    return;
  wake(l);
  pthread_join(l->thread, NULL);
  if (l->dead == VIX_OK)
    gnutls_bye(l->tls, GNUTLS_SHUT_WR);
  free_link(l);
}

int link_dead(struct link *l)
{
  pthread_mutex_lock(&l->lock);
  int dead = l->dead != VIX_OK;
  pthread_mutex_unlock(&l->lock);
  return dead;
}
