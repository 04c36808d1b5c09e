/* What nbdkit never does: the library's refusals at the interface itself, and callers that err. Prints each check; fails if one does.
 * Where the server is comes by the environment: VDDK_SERVER, _PORT, _THUMBPRINT, _USER, _PASSWORD, _DISK, _TAIL (a disk that does not end
 * with a chunk), _ORACLE (the bytes of _DISK). The virtual machine is vm-62, its snapshot snapshot-74. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vixdisklib.h"

static int passed, failed;

static void check(int good, const char *what)
{
  printf("%s %s\n", good ? "ok   " : "FAIL ", what);
  if (good)
    passed++;
  else
    failed++;
}

static void expect(VixError got, VixError want, const char *what)
{
  char line[512];
  snprintf(line, sizeof line, "%s: %llu%s", what, (unsigned long long)got, got == want ? "" : " was not expected");
  check(got == want, line);
}

static const char *env(const char *name)
{
  const char *v = getenv(name);
  if (v == NULL) {
    fprintf(stderr, "driver: %s is not set: run it by e2e/vddk/test.sh\n", name);
    exit(2);
  }
  return v;
}

static char last_log[1024];
static void log_line(const char *format, va_list args)
{
  vsnprintf(last_log, sizeof last_log, format, args);
}

static VixDiskLibConnectParams *params(void)
{
  VixDiskLibConnectParams *p = VixDiskLib_AllocateConnectParams();
  if (p == NULL)
    abort();
  p->vmxSpec = "moref=vm-62";
  p->serverName = (char *)env("VDDK_SERVER");
  p->thumbPrint = (char *)env("VDDK_THUMBPRINT");
  p->port = (uint32_t)atoi(env("VDDK_PORT"));
  p->credType = VIXDISKLIB_CRED_UID;
  p->creds.uid.userName = (char *)env("VDDK_USER");
  p->creds.uid.password = (char *)env("VDDK_PASSWORD");
  return p;
}

static VixDiskLibConnection connected(void)
{
  VixDiskLibConnectParams *p = params();
  VixDiskLibConnection c = NULL;
  if (VixDiskLib_ConnectEx(p, 1, "snapshot-74", NULL, &c) != VIX_OK)
    abort();
  VixDiskLib_FreeConnectParams(p);
  return c;
}

static void initialisation(void)
{
  VixDiskLibConnectParams *p = params();
  VixDiskLibConnection c;
  expect(VixDiskLib_ConnectEx(p, 1, NULL, NULL, &c), VIX_E_DISK_NOINIT, "connect before InitEx");
  VixDiskLib_FreeConnectParams(p);
  expect(VixDiskLib_InitEx(9, 0, log_line, log_line, log_line, NULL, NULL), VIX_E_INVALID_ARG, "InitEx of version 9");
  expect(VixDiskLib_InitEx(8, 0, log_line, log_line, log_line, NULL, "/nonexistent"), VIX_E_FILE_NOT_FOUND, "InitEx, no such configuration");
  char path[] = "/tmp/vddk-driver.XXXXXX";
  int fd = mkstemp(path);
  const char *text = "# a comment\nvixDiskLib.nfcAio.Session.BufCount = many\n";
  check(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text), "a configuration file");
  expect(VixDiskLib_InitEx(8, 0, log_line, log_line, log_line, NULL, path), VIX_E_INVALID_ARG, "InitEx, a value that is no number");
  text = "tmpDirectory=/tmp\nvixDiskLib.nfcAio.Session.BufCount=2\nvixDiskLib.nfcAio.Session.BufSizeIn64K=16\n";
  check(ftruncate(fd, 0) == 0 && pwrite(fd, text, strlen(text), 0) == (ssize_t)strlen(text), "another");
  expect(VixDiskLib_InitEx(6, 5, log_line, log_line, log_line, NULL, path), VIX_OK, "InitEx of 6.5, as nbdkit asks");
  close(fd);
  unlink(path);
  check(strcmp(VixDiskLib_ListTransportModes(), "file:nbdssl:nbd") == 0, "transports are those without hotadd and san");
}

static void connecting(void)
{
  VixDiskLibConnectParams *p = params();
  VixDiskLibConnection c = NULL;
  VixDiskLibHandle h = NULL;
  expect(VixDiskLib_ConnectEx(p, 1, NULL, "san:hotadd", &c), VIX_E_NOT_SUPPORTED, "transports san:hotadd");
  p->creds.uid.password = NULL;
  expect(VixDiskLib_ConnectEx(p, 1, NULL, NULL, &c), VIX_E_INVALID_ARG, "no password at all");
  p->creds.uid.password = (char *)env("VDDK_PASSWORD");
  p->credType = VIXDISKLIB_CRED_SESSIONID;
  expect(VixDiskLib_ConnectEx(p, 1, NULL, NULL, &c), VIX_E_NOT_SUPPORTED, "a session cookie");
  p->credType = VIXDISKLIB_CRED_UID;
  p->vmxSpec = "web?/vm/web";
  expect(VixDiskLib_ConnectEx(p, 1, NULL, NULL, &c), VIX_E_VM_NOT_FOUND, "a VM that is not given by moref");
  p->vmxSpec = p->serverName = NULL;
  expect(VixDiskLib_ConnectEx(p, 1, NULL, NULL, &c), VIX_E_NOT_SUPPORTED, "a local disk");
  VixDiskLib_FreeConnectParams(p);

  p = params();
  p->thumbPrint = NULL;
  expect(VixDiskLib_ConnectEx(p, 1, "snapshot-74", NULL, &c), VIX_OK, "connect without a thumbprint");
  expect(VixDiskLib_Open(c, env("VDDK_DISK"), VIXDISKLIB_FLAG_OPEN_READ_ONLY, &h), VIX_E_FAIL, "but open is refused");
  expect(VixDiskLib_Disconnect(c), VIX_OK, "disconnect");
  VixDiskLib_FreeConnectParams(p);

  p = params();
  expect(VixDiskLib_PrepareForAccess(p, "a name of more than fifty characters is refused here"), VIX_E_INVALID_ARG, "identity of 51 characters");
  expect(VixDiskLib_EndAccess(p, "hawser"), VIX_E_INVALID_ARG, "EndAccess without PrepareForAccess");
  expect(VixDiskLib_PrepareForAccess(p, "hawser"), VIX_OK, "PrepareForAccess");
  expect(VixDiskLib_EndAccess(p, "hawser"), VIX_OK, "EndAccess");
  p->creds.uid.password = "wrong";
  expect(VixDiskLib_PrepareForAccess(p, "hawser"), VIX_E_HOST_USER_PERMISSIONS, "PrepareForAccess with a wrong password");
  VixDiskLib_FreeConnectParams(p);

  expect(VixDiskLib_Disconnect(NULL), VIX_E_INVALID_ARG, "disconnect nothing");
}

static void opening(void)
{
  VixDiskLibConnection c = connected();
  VixDiskLibHandle a = NULL, b = NULL;
  const uint32_t ro = VIXDISKLIB_FLAG_OPEN_READ_ONLY;
  expect(VixDiskLib_Create(c, "[datastore1] new/new.vmdk", NULL, NULL, NULL), VIX_E_NOT_SUPPORTED, "create a disk");
  expect(VixDiskLib_Open(c, "[datastore1] web/none.vmdk", ro, &a), VIX_E_FILE_NOT_FOUND, "open a file that is not there");
  expect(VixDiskLib_Open(c, env("VDDK_DISK"), 0, &a), VIX_E_FILE_READ_ONLY, "open for writing");
  expect(VixDiskLib_Open(c, env("VDDK_DISK"), ro, &a), VIX_OK, "open");
  expect(VixDiskLib_Open(c, env("VDDK_DISK"), ro, &b), VIX_E_FILE_ALREADY_LOCKED, "open twice");
  expect(VixDiskLib_Open(c, env("VDDK_TAIL"), ro, &b), VIX_OK, "open another on the same connection");
  check(strcmp(VixDiskLib_GetTransportMode(a), "nbdssl") == 0, "transport nbdssl");
  unsigned char sector[512];
  expect(VixDiskLib_Write(a, 0, 1, sector), VIX_E_FILE_READ_ONLY, "write");
  expect(VixDiskLib_WriteAsync(a, 0, 1, sector, NULL, NULL), VIX_E_FILE_READ_ONLY, "write asynchronously");
  expect(VixDiskLib_Close(b), VIX_OK, "close the other");
  expect(VixDiskLib_Disconnect(c), VIX_OK, "disconnect with a disk open");
  expect(VixDiskLib_Read(a, 0, 1, sector), VIX_E_DISK_INVALID_CONNECTION, "read through a handle that this made void");
  expect(VixDiskLib_Close(a), VIX_E_DISK_INVALID_CONNECTION, "close it");
}

static void reading(VixDiskLibHandle h)
{
  VixDiskLibInfo *info = NULL;
  expect(VixDiskLib_GetInfo(h, &info), VIX_OK, "info");
  uint64_t sectors = info->capacity;
  check(info->logicalSectorSize == 512, "sectors of 512 bytes");
  VixDiskLib_FreeInfo(info);

  FILE *f = fopen(env("VDDK_ORACLE"), "rb");
  unsigned char *oracle = malloc(sectors * 512), *buf = malloc(4 << 20);
  check(f && oracle && buf && fread(oracle, 512, sectors, f) == sectors && fgetc(f) == EOF, "the capacity is the oracle's");
  if (f)
    fclose(f);

  expect(VixDiskLib_Read(h, 0, 0, buf), VIX_E_INVALID_ARG, "read no sectors");
  expect(VixDiskLib_Read(h, sectors, 1, buf), VIX_E_DISK_OUTOFRANGE, "read at the end");
  expect(VixDiskLib_Read(h, sectors - 1, 2, buf), VIX_E_DISK_OUTOFRANGE, "read over the end");
  expect(VixDiskLib_Read(h, UINT64_MAX, 2, buf), VIX_E_DISK_OUTOFRANGE, "read where addition overflows");
  expect(VixDiskLib_Read(h, 0, (2 << 20) / 512 + 1, buf), VIX_E_OUT_OF_MEMORY, "read 2 MiB and a sector");
  check(strstr(last_log, "NFC error 5 from server: Failed to allocate the requested 2097688 bytes") != NULL, "which the log explains");
  expect(VixDiskLib_Read(h, 0, (2 << 20) / 512, buf), VIX_OK, "read 2 MiB");
  check(memcmp(buf, oracle, 2 << 20) == 0, "the bytes are right");
  expect(VixDiskLib_Read(h, sectors - 1, 1, buf), VIX_OK, "read the last sector");
  check(memcmp(buf, oracle + (sectors - 1) * 512, 512) == 0, "the bytes are right");
  expect(VixDiskLib_Read(h, 0, 1, NULL), VIX_E_INVALID_ARG, "read to nowhere");
  free(oracle);
  free(buf);
}

enum { READS = 64, PIECE = 128 };

static struct {
  pthread_mutex_t lock;
  int calls, wrong, here;
  pthread_t caller;
} async = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void on_read(void *data, VixError result)
{
  (void)data;
  usleep(1000); /* Wait must not return before the callbacks have */
  pthread_mutex_lock(&async.lock);
  async.calls++;
  async.wrong += result != VIX_OK;
  async.here += pthread_equal(pthread_self(), async.caller) != 0;
  pthread_mutex_unlock(&async.lock);
}

static void reading_async(VixDiskLibHandle h)
{
  unsigned char *buf = malloc((size_t)READS * PIECE * 512), *whole = malloc((size_t)READS * PIECE * 512);
  int sent = 0;
  async.caller = pthread_self();
  for (uint64_t i = 0; i < READS; i++)
    sent += VixDiskLib_ReadAsync(h, i * PIECE, PIECE, buf + i * PIECE * 512, on_read, NULL) == VIX_ASYNC;
  check(sent == READS, "64 reads at once answer VIX_ASYNC");
  expect(VixDiskLib_Wait(h), VIX_OK, "wait");
  check(async.calls == READS && async.wrong == 0, "all callbacks came before Wait returned");
  check(async.here == 0, "from another thread");
  int good = 1;
  for (uint64_t i = 0; i < READS; i += 16)
    good &= VixDiskLib_Read(h, i * PIECE, 16 * PIECE, whole + i * PIECE * 512) == VIX_OK;
  check(good && memcmp(buf, whole, (size_t)READS * PIECE * 512) == 0, "the bytes are those of plain reads");
  free(buf);
  free(whole);
}

static void allocation(VixDiskLibConnection c, VixDiskLibHandle h)
{
  VixDiskLibBlockList *list = NULL;
  expect(VixDiskLib_QueryAllocatedBlocks(h, 0, 128, 64, &list), VIX_E_INVALID_ARG, "chunks of 64 sectors");
  expect(VixDiskLib_QueryAllocatedBlocks(h, 1, 128, 128, &list), VIX_E_INVALID_ARG, "a start within a chunk");
  expect(VixDiskLib_QueryAllocatedBlocks(h, 0, 129, 128, &list), VIX_E_INVALID_ARG, "a length of no whole chunks");
  expect(VixDiskLib_QueryAllocatedBlocks(h, 0, 0, 128, &list), VIX_E_INVALID_ARG, "no length");
  expect(VixDiskLib_QueryAllocatedBlocks(h, 0, (512ULL * 1024 + 1) * 128, 128, &list), VIX_E_INVALID_ARG, "more than 512 K chunks");
  expect(VixDiskLib_QueryAllocatedBlocks(h, 0, 24 * 2048 + 128, 128, &list), VIX_E_INVALID_ARG, "beyond the end");
  VixDiskLibHandle tail = NULL;
  expect(VixDiskLib_Open(c, env("VDDK_TAIL"), VIXDISKLIB_FLAG_OPEN_READ_ONLY, &tail), VIX_OK, "open a disk that ends within a chunk");
  expect(VixDiskLib_QueryAllocatedBlocks(tail, 5 * 2048, 128, 128, &list), VIX_E_INVALID_ARG, "its last chunk can't be asked for");
  expect(VixDiskLib_QueryAllocatedBlocks(tail, 0, 5 * 2048, 128, &list), VIX_OK, "the chunks before can");
  VixDiskLib_FreeBlockList(list);
  VixDiskLib_Close(tail);

  expect(VixDiskLib_QueryAllocatedBlocks(h, 0, 24 * 2048, 128, &list), VIX_OK, "all of a disk");
  int order = list->numBlocks > 1;
  for (uint32_t i = 0; i < list->numBlocks; i++)
    order &= list->blocks[i].length > 0 && list->blocks[i].offset % 128 == 0 && list->blocks[i].length % 128 == 0 &&
             (i == 0 || list->blocks[i].offset > list->blocks[i - 1].offset + list->blocks[i - 1].length);
  check(order, "blocks ascend, apart, in whole chunks");
  unsigned char *buf = malloc(128 * 512);
  int zero = 1;
  uint32_t at = 0;
  for (uint64_t s = 0; s < 24 * 2048; s += 128) {
    while (at < list->numBlocks && list->blocks[at].offset + list->blocks[at].length <= s)
      at++;
    if ((at < list->numBlocks && list->blocks[at].offset <= s) || VixDiskLib_Read(h, s, 128, buf) != VIX_OK)
      continue;
    for (int i = 0; i < 128 * 512; i++)
      zero &= buf[i] == 0;
  }
  check(zero, "what is not allocated reads as zeros");
  free(buf);
  VixDiskLib_FreeBlockList(list);
}

int main(void)
{
  initialisation();
  connecting();
  opening();
  VixDiskLibConnection c = connected();
  VixDiskLibHandle h = NULL;
  expect(VixDiskLib_Open(c, env("VDDK_DISK"), VIXDISKLIB_FLAG_OPEN_READ_ONLY, &h), VIX_OK, "open");
  if (h != NULL) {
    reading(h);
    reading_async(h);
    allocation(c, h);
    expect(VixDiskLib_Close(h), VIX_OK, "close");
  }
  expect(VixDiskLib_Disconnect(c), VIX_OK, "disconnect");
  VixDiskLib_Exit();
  printf("%d passed, %d failed\n", passed, failed);
  return failed > 0 || passed == 0;
}
