/* A stand-in for VMware's libvixDiskLib.so.8: it reads the disks of the vCenter simulator and refuses what the real one would.
 *
 * It is a test double and nothing else: it cannot talk to a real vCenter, and writes nothing, nowhere. */
#include "vixdisklib.h"

#include <ctype.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "link.h"

struct vix_connection {
  char *server, *thumbprint, *user, *password, *vm, *snapshot;
  const char *transport;
  unsigned port;
  int read_only;
  struct link *link;
  struct vix_handle *handles;
};

struct vix_handle {
  struct vix_handle *next;
  struct vix_connection *conn; /* NULL once it was disconnected */
  struct link *link;
  struct stream stream;
  uint32_t disk;
  uint32_t flags;
  uint64_t sectors;
};

/* nfcAio defaults differ by release and are not public; 4 buffers of 1 MiB is what other tools set. */
static const struct settings defaults = {
    .accept_timeout_ms = 45000, .request_timeout_ms = 45000, .read_timeout_ms = 45000, .window = 4 << 20};
struct settings settings;

static pthread_mutex_t state = PTHREAD_MUTEX_INITIALIZER;
static unsigned inits;
static VixDiskLibGenericLogFunc *log_function, *warn_function;

void vix_log(const char *format, ...)
{
  va_list args;
  va_start(args, format);
  if (log_function != NULL)
    log_function(format, args);
  va_end(args);
}

void vix_warn(const char *format, ...)
{
  va_list args;
  va_start(args, format);
  if (warn_function != NULL)
    warn_function(format, args);
  va_end(args);
}

/* --- initialisation -------------------------------------------------------------------------------------------------------------- */

static char *trim(char *s)
{
  while (isspace((unsigned char)*s))
    s++;
  size_t n = strlen(s);
  while (n > 0 && isspace((unsigned char)s[n - 1]))
    s[--n] = '\0';
  return s;
}

/* Reads the keys that mean something here from lines of key=value; the real file has many more, which are passed over. */
static VixError configure(const char *path, struct settings *s)
{
  FILE *f = fopen(path, "re");
  if (f == NULL) {
    vix_warn("VixDiskLib: cannot read the configuration file %s: %s\n", path, strerror(errno));
    return VIX_E_FILE_NOT_FOUND;
  }
  long buffers = 4, size = 16;
  struct {
    const char *key;
    long *value;
    long min;
  } keys[] = {
      {"vixDiskLib.nfc.AcceptTimeoutMs", &s->accept_timeout_ms, 0}, {"vixDiskLib.nfc.RequestTimeoutMs", &s->request_timeout_ms, 0},
      {"vixDiskLib.nfc.ReadTimeoutMs", &s->read_timeout_ms, 0},     {"vixDiskLib.nfcAio.Session.BufCount", &buffers, 1},
      {"vixDiskLib.nfcAio.Session.BufSizeIn64K", &size, 1},
  };
  char line[1024];
  VixError err = VIX_OK;
  while (err == VIX_OK && fgets(line, sizeof line, f) != NULL) {
    char *eq = strchr(line, '=');
    if (line[0] == '#' || eq == NULL)
      continue;
    *eq = '\0';
    char *key = trim(line), *value = trim(eq + 1), *end;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
      if (strcasecmp(key, keys[i].key) != 0)
        continue;
      errno = 0;
      *keys[i].value = strtol(value, &end, 10);
      if (errno != 0 || end == value || *end != '\0' || *keys[i].value < keys[i].min || *keys[i].value > 1L << 30) {
        vix_warn("VixDiskLib: %s: %s = %s is not a number from %ld\n", path, key, value, keys[i].min);
        err = VIX_E_INVALID_ARG;
      }
    }
  }
  fclose(f);
  s->window = (size_t)buffers * (size_t)size << 16;
  return err;
}

VixError VixDiskLib_InitEx(uint32_t major, uint32_t minor, VixDiskLibGenericLogFunc *log, VixDiskLibGenericLogFunc *warn,
                           VixDiskLibGenericLogFunc *panic, const char *libDir, const char *configFile)
{
  (void)minor;
  (void)panic;
  (void)libDir;
  VixError err = VIX_OK;
  pthread_mutex_lock(&state);
  if (inits == 0) {
    struct settings s = defaults;
    log_function = log;
    warn_function = warn;
    if (major > 8) {
      vix_warn("VixDiskLib: this is version 8, and %u was asked for\n", major);
      err = VIX_E_INVALID_ARG;
    } else if (configFile != NULL) {
      err = configure(configFile, &s);
    }
    settings = s;
    if (err == VIX_OK)
      vix_log("VixDiskLib: Using transport modes from DiskLib: %s. (A stand-in for tests, not VMware's library.)\n",
              VixDiskLib_ListTransportModes());
  }
  if (err == VIX_OK)
    inits++;
  pthread_mutex_unlock(&state);
  return err;
}

VixError VixDiskLib_Init(uint32_t major, uint32_t minor, VixDiskLibGenericLogFunc *log, VixDiskLibGenericLogFunc *warn,
                         VixDiskLibGenericLogFunc *panic, const char *libDir)
{
  return VixDiskLib_InitEx(major, minor, log, warn, panic, libDir, NULL);
}

void VixDiskLib_Exit(void)
{
  pthread_mutex_lock(&state);
  if (inits > 0)
    inits--;
  pthread_mutex_unlock(&state);
}

static int initialised(void)
{
  pthread_mutex_lock(&state);
  int yes = inits > 0;
  pthread_mutex_unlock(&state);
  return yes;
}

const char *VixDiskLib_ListTransportModes(void)
{
  return "file:nbdssl:nbd";
}

/* --- connections ----------------------------------------------------------------------------------------------------------------- */

VixDiskLibConnectParams *VixDiskLib_AllocateConnectParams(void)
{
  return calloc(1, sizeof(VixDiskLibConnectParams));
}

/* The strings in it are the caller's (nbdkit's are its command line). */
void VixDiskLib_FreeConnectParams(VixDiskLibConnectParams *params)
{
  free(params);
}

/* The real library crashes where a string is missing (nbdkit, vddk_config_complete): an error is of more use. */
static VixError check_params(const VixDiskLibConnectParams *p)
{
  if (!initialised())
    return VIX_E_DISK_NOINIT;
  if (p == NULL)
    return VIX_E_INVALID_ARG;
  if (p->serverName == NULL && p->vmxSpec == NULL) {
    vix_warn("VixDiskLib: the stand-in knows no local disks: give server, user, password, vm\n");
    return VIX_E_NOT_SUPPORTED;
  }
  if (p->credType != VIXDISKLIB_CRED_UID || p->specType != VIXDISKLIB_SPEC_VMX) {
    vix_warn("VixDiskLib: the stand-in knows only user and password, and virtual machines\n");
    return VIX_E_NOT_SUPPORTED;
  }
  if (p->serverName == NULL || p->vmxSpec == NULL || p->creds.uid.userName == NULL || p->creds.uid.password == NULL)
    return VIX_E_INVALID_ARG;
  if (strncmp(p->vmxSpec, "moref=", 6) != 0) {
    vix_warn("VixDiskLib: the stand-in finds a virtual machine by moref=vm-... only\n");
    return VIX_E_VM_NOT_FOUND;
  }
  return VIX_OK;
}

/* The first transport of the list that there is; NULL if none. */
static VixError choose_transport(const char *modes, const char **transport)
{
  *transport = modes == NULL ? "nbdssl" : NULL;
  while (modes != NULL && *modes != '\0') {
    size_t n = strcspn(modes, ":");
    if (*transport == NULL && n == 6 && strncmp(modes, "nbdssl", n) == 0)
      *transport = "nbdssl";
    else if (*transport == NULL && n == 3 && strncmp(modes, "nbd", n) == 0)
      *transport = "nbd";
    modes += n + (modes[n] == ':');
  }
  return *transport ? VIX_OK : VIX_E_NOT_SUPPORTED;
}

static VixError start_session(struct vix_connection *c)
{
  struct link *l;
  VixError err = link_start(c->server, c->port, c->thumbprint, &l);
  if (err == VIX_OK) {
    struct body b = {0};
    put_str(&b, c->user);
    put_str(&b, c->password);
    put_str(&b, c->vm);
    put_str(&b, c->snapshot);
    put_u8(&b, (uint8_t)c->read_only);
    err = link_call(l, OP_CONNECT, &b, NULL, NULL);
    if (err != VIX_OK)
      link_put(l);
    else
      c->link = l;
  }
  if (err != VIX_OK)
    vix_log("VixDiskLib: Failed to start session: error %u\n", (unsigned)err);
  return err;
}

static void free_connection(struct vix_connection *c)
{
  char *strings[] = {c->server, c->thumbprint, c->user, c->password, c->vm, c->snapshot};
  for (size_t i = 0; i < sizeof strings / sizeof *strings; i++)
    free(strings[i]);
  free(c);
}

/* Like the real library (8.0), it answers VIX_OK even where the session can't be started: VixDiskLib_Open tries again, and tells. */
VixError VixDiskLib_ConnectEx(const VixDiskLibConnectParams *params, char readOnly, const char *snapshotRef, const char *transportModes,
                              VixDiskLibConnection *connection)
{
  VixError err = check_params(params);
  if (err == VIX_OK && connection == NULL)
    err = VIX_E_INVALID_ARG;
  const char *transport;
  if (err == VIX_OK)
    err = choose_transport(transportModes, &transport);
  if (err != VIX_OK)
    return err;
  vix_log("VixDiskLib: VixDiskLib_ConnectEx: Establish connection using %s.\n", transportModes ? transportModes : "(null)");

  struct vix_connection *c = calloc(1, sizeof *c);
  if (c == NULL)
    return VIX_E_OUT_OF_MEMORY;
  c->transport = transport;
  c->port = params->port ? params->port : 443;
  c->read_only = readOnly != 0;
  c->server = strdup(params->serverName);
  c->user = strdup(params->creds.uid.userName);
  c->password = strdup(params->creds.uid.password);
  c->vm = strdup(params->vmxSpec + strlen("moref="));
  c->thumbprint = params->thumbPrint ? strdup(params->thumbPrint) : NULL;
  c->snapshot = snapshotRef ? strdup(snapshotRef) : NULL;
  if (!c->server || !c->user || !c->password || !c->vm || (params->thumbPrint && !c->thumbprint) || (snapshotRef && !c->snapshot)) {
    free_connection(c);
    return VIX_E_OUT_OF_MEMORY;
  }
  start_session(c);
  *connection = c;
  return VIX_OK;
}

VixError VixDiskLib_Connect(const VixDiskLibConnectParams *params, VixDiskLibConnection *connection)
{
  return VixDiskLib_ConnectEx(params, 0, NULL, NULL, connection);
}

VixError VixDiskLib_Disconnect(VixDiskLibConnection c)
{
  if (c == NULL)
    return VIX_E_INVALID_ARG;
  /* It invalidates open handles (programming guide); Close still frees them. */
  for (struct vix_handle *h = c->handles; h != NULL; h = h->next) {
    link_drain(h->link, &h->stream);
    h->conn = NULL;
    link_put(h->link);
    h->link = NULL;
  }
  if (c->link != NULL)
    link_put(c->link);
  free_connection(c);
  return VIX_OK;
}

static VixError access_call(const VixDiskLibConnectParams *params, const char *identity, enum op op)
{
  VixError err = check_params(params);
  if (err != VIX_OK)
    return err;
  if (identity == NULL || *identity == '\0' || strlen(identity) > 50) /* as documented */
    return VIX_E_INVALID_ARG;
  struct link *l;
  err = link_start(params->serverName, params->port ? params->port : 443, params->thumbPrint, &l);
  if (err != VIX_OK)
    return err;
  struct body b = {0};
  put_str(&b, params->creds.uid.userName);
  put_str(&b, params->creds.uid.password);
  put_str(&b, params->vmxSpec + strlen("moref="));
  put_str(&b, identity);
  err = link_call(l, op, &b, NULL, NULL);
  link_put(l);
  return err;
}

VixError VixDiskLib_PrepareForAccess(const VixDiskLibConnectParams *params, const char *identity)
{
  return access_call(params, identity, OP_PREPARE);
}

VixError VixDiskLib_EndAccess(const VixDiskLibConnectParams *params, const char *identity)
{
  return access_call(params, identity, OP_END);
}

VixError VixDiskLib_Cleanup(const VixDiskLibConnectParams *params, uint32_t *cleaned, uint32_t *remaining)
{
  if (cleaned != NULL)
    *cleaned = 0;
  if (remaining != NULL)
    *remaining = 0;
  return check_params(params);
}

/* --- disks ----------------------------------------------------------------------------------------------------------------------- */

VixError VixDiskLib_Create(VixDiskLibConnection c, const char *path, const void *params, void *progress, void *data)
{
  (void)c, (void)path, (void)params, (void)progress, (void)data;
  return VIX_E_NOT_SUPPORTED;
}

static VixError open_disk(struct vix_connection *c, const char *path, uint32_t flags, struct vix_handle *h)
{
  if (c->link != NULL && link_dead(c->link)) {
    link_put(c->link);
    c->link = NULL;
  }
  VixError err = c->link == NULL ? start_session(c) : VIX_OK;
  if (err != VIX_OK)
    return err;
  struct body b = {0};
  put_u32(&b, flags);
  put_str(&b, path);
  unsigned char *answer = NULL;
  size_t n = 0;
  err = link_call(c->link, OP_OPEN, &b, &answer, &n);
  if (err == VIX_OK && n != 12)
    err = VIX_E_HOST_TCP_SOCKET_ERROR;
  if (err == VIX_OK) {
    h->disk = get_u32(answer);
    h->sectors = get_u64(answer + 4) / VIXDISKLIB_SECTOR_SIZE;
    h->flags = flags;
  }
  free(answer);
  return err;
}

VixError VixDiskLib_Open(VixDiskLibConnection c, const char *path, uint32_t flags, VixDiskLibHandle *handle)
{
  if (c == NULL || path == NULL || handle == NULL)
    return VIX_E_INVALID_ARG;
  vix_log("VixDiskLib: VixDiskLib_OpenEx: Open a disk.\n");
  struct vix_handle *h = calloc(1, sizeof *h);
  if (h == NULL)
    return VIX_E_OUT_OF_MEMORY;
  VixError err = open_disk(c, path, flags, h);
  if (err != VIX_OK) {
    char *text = VixDiskLib_GetErrorText(err, NULL);
    vix_log("VixDiskLib: VixDiskLib_OpenEx: Cannot open disk %s. Error %u (%s)\n", path, (unsigned)err, text ? text : "");
    VixDiskLib_FreeErrorText(text);
    free(h);
    return err;
  }
  h->conn = c;
  h->link = link_get(c->link);
  h->next = c->handles;
  c->handles = h;
  *handle = h;
  return VIX_OK;
}

VixError VixDiskLib_Close(VixDiskLibHandle h)
{
  if (h == NULL)
    return VIX_E_INVALID_ARG;
  VixError err = VIX_E_DISK_INVALID_CONNECTION;
  if (h->conn != NULL) {
    link_drain(h->link, &h->stream);
    struct body b = {0};
    put_u32(&b, h->disk);
    err = link_call(h->link, OP_CLOSE, &b, NULL, NULL);
    struct vix_handle **at = &h->conn->handles;
    while (*at != h)
      at = &(*at)->next;
    *at = h->next;
    link_put(h->link);
  }
  free(h);
  return err;
}

const char *VixDiskLib_GetTransportMode(VixDiskLibHandle h)
{
  return h != NULL && h->conn != NULL ? h->conn->transport : NULL;
}

VixError VixDiskLib_GetInfo(VixDiskLibHandle h, VixDiskLibInfo **info)
{
  if (h == NULL || info == NULL)
    return VIX_E_INVALID_ARG;
  VixDiskLibInfo *i = calloc(1, sizeof *i);
  if (i == NULL)
    return VIX_E_OUT_OF_MEMORY;
  uint64_t cylinders = h->sectors / (255 * 63);
  i->biosGeo = i->physGeo = (VixDiskLibGeometry){cylinders > UINT32_MAX ? UINT32_MAX : (uint32_t)cylinders, 255, 63};
  i->capacity = h->sectors;
  i->adapterType = VIXDISKLIB_ADAPTER_SCSI_LSILOGIC;
  i->numLinks = 1;
  i->logicalSectorSize = i->physicalSectorSize = VIXDISKLIB_SECTOR_SIZE;
  *info = i;
  return VIX_OK;
}

void VixDiskLib_FreeInfo(VixDiskLibInfo *info)
{
  free(info);
}

VixError VixDiskLib_ReadAsync(VixDiskLibHandle h, uint64_t startSector, uint64_t numSectors, unsigned char *buf,
                              VixDiskLibCompletionCB callback, void *data)
{
  if (h == NULL || buf == NULL || callback == NULL || numSectors > UINT32_MAX)
    return VIX_E_INVALID_ARG;
  if (h->conn == NULL)
    return VIX_E_DISK_INVALID_CONNECTION;
  struct body b = {0};
  put_u32(&b, h->disk);
  put_u64(&b, startSector);
  put_u32(&b, (uint32_t)numSectors);
  return link_read(h->link, &h->stream, &b, buf, numSectors * VIXDISKLIB_SECTOR_SIZE, callback, data);
}

struct waiter {
  pthread_mutex_t lock;
  pthread_cond_t changed;
  int done;
  VixError result;
};

static void wake_waiter(void *data, VixError result)
{
  struct waiter *w = data;
  pthread_mutex_lock(&w->lock);
  w->done = 1;
  w->result = result;
  pthread_cond_signal(&w->changed);
  pthread_mutex_unlock(&w->lock);
}

VixError VixDiskLib_Read(VixDiskLibHandle h, uint64_t startSector, uint64_t numSectors, unsigned char *buf)
{
  struct waiter w = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
  VixError err = VixDiskLib_ReadAsync(h, startSector, numSectors, buf, wake_waiter, &w);
  if (err != VIX_ASYNC)
    return err;
  pthread_mutex_lock(&w.lock);
  while (!w.done)
    pthread_cond_wait(&w.changed, &w.lock);
  pthread_mutex_unlock(&w.lock);
  return w.result;
}

VixError VixDiskLib_Write(VixDiskLibHandle h, uint64_t startSector, uint64_t numSectors, const unsigned char *buf)
{
  (void)startSector, (void)numSectors, (void)buf;
  if (h == NULL)
    return VIX_E_INVALID_ARG;
  vix_warn("VixDiskLib: a write to a disk of a snapshot\n");
  return h->flags & VIXDISKLIB_FLAG_OPEN_READ_ONLY ? VIX_E_FILE_READ_ONLY : VIX_E_NOT_SUPPORTED;
}

VixError VixDiskLib_WriteAsync(VixDiskLibHandle h, uint64_t startSector, uint64_t numSectors, const unsigned char *buf,
                               VixDiskLibCompletionCB callback, void *data)
{
  (void)callback, (void)data;
  return VixDiskLib_Write(h, startSector, numSectors, buf);
}

VixError VixDiskLib_Wait(VixDiskLibHandle h)
{
  if (h == NULL)
    return VIX_E_INVALID_ARG;
  if (h->conn == NULL)
    return VIX_E_DISK_INVALID_CONNECTION;
  link_drain(h->link, &h->stream);
  return VIX_OK;
}

VixError VixDiskLib_Flush(VixDiskLibHandle h)
{
  return VixDiskLib_Wait(h);
}

VixError VixDiskLib_QueryAllocatedBlocks(VixDiskLibHandle h, uint64_t startSector, uint64_t numSectors, uint64_t chunkSize,
                                         VixDiskLibBlockList **list)
{
  if (h == NULL || list == NULL)
    return VIX_E_INVALID_ARG;
  if (h->conn == NULL)
    return VIX_E_DISK_INVALID_CONNECTION;
  struct body b = {0};
  put_u32(&b, h->disk);
  put_u64(&b, startSector);
  put_u64(&b, numSectors);
  put_u64(&b, chunkSize);
  unsigned char *answer = NULL;
  size_t n = 0;
  VixError err = link_call(h->link, OP_ALLOCATED, &b, &answer, &n);
  if (err == VIX_OK && (n < 4 || n != 4 + (size_t)get_u32(answer) * 16))
    err = VIX_E_HOST_TCP_SOCKET_ERROR;
  if (err == VIX_OK) {
    uint32_t count = get_u32(answer);
    VixDiskLibBlockList *l = malloc(sizeof *l + (count + 1) * sizeof l->blocks[0]);
    if (l == NULL) {
      err = VIX_E_OUT_OF_MEMORY;
    } else {
      l->numBlocks = count;
      for (uint32_t i = 0; i < count; i++)
        l->blocks[i] = (VixDiskLibBlock){get_u64(answer + 4 + 16 * i), get_u64(answer + 12 + 16 * i)};
      *list = l;
    }
  }
  free(answer);
  return err;
}

VixError VixDiskLib_FreeBlockList(VixDiskLibBlockList *list)
{
  free(list);
  return VIX_OK;
}
