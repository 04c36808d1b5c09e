/* The part of VDDK's interface that nbdkit's vddk plugin uses, and a little more.
 *
 * Written from what is public (VMware's programming guide, nbdkit's plugins/vddk/vddk-structs.h and vddk-stubs.h): names, numbers and
 * layouts are those of the interface, since a program built against the real library must work with this one. None of it is VMware's text.
 */
#ifndef HAWSER_VIXDISKLIB_H
#define HAWSER_VIXDISKLIB_H

#include <stdarg.h>
#include <stdint.h>

typedef uint64_t VixError;

enum {
  VIX_OK = 0,
  VIX_E_FAIL = 1,
  VIX_E_OUT_OF_MEMORY = 2,
  VIX_E_INVALID_ARG = 3,
  VIX_E_FILE_NOT_FOUND = 4,
  VIX_E_NOT_SUPPORTED = 6,
  VIX_E_FILE_READ_ONLY = 11,
  VIX_E_FILE_ACCESS_ERROR = 13,
  VIX_E_FILE_ALREADY_LOCKED = 15,
  VIX_E_HOST_USER_PERMISSIONS = 3014,
  VIX_E_VM_NOT_FOUND = 4000,
  VIX_E_SNAPSHOT_NOTFOUND = 13003,
  VIX_E_HOST_SERVER_NOT_FOUND = 14008,
  VIX_E_HOST_NETWORK_CONN_REFUSED = 14009,
  VIX_E_HOST_TCP_SOCKET_ERROR = 14010,
  VIX_E_HOST_TCP_CONN_LOST = 14011,
  VIX_E_DISK_INVAL = 16000,
  VIX_E_DISK_NOINIT = 16001,
  VIX_E_DISK_OUTOFRANGE = 16007,
  VIX_E_DISK_TOOMANYOPENFILES = 16027,
  VIX_E_DISK_INVALID_CONNECTION = 16054,
  VIX_E_DISK_NOLICENSE = 16064,
  VIX_E_CANNOT_CONNECT_TO_HOST = 18000,
  VIX_ASYNC = 25000, /* not an error: the callback will tell */
};

enum {
  VIXDISKLIB_FLAG_OPEN_UNBUFFERED = 1 << 0,
  VIXDISKLIB_FLAG_OPEN_SINGLE_LINK = 1 << 1,
  VIXDISKLIB_FLAG_OPEN_READ_ONLY = 1 << 2,
};

#define VIXDISKLIB_SECTOR_SIZE 512

typedef struct vix_connection *VixDiskLibConnection;
typedef struct vix_handle *VixDiskLibHandle;
typedef void VixDiskLibGenericLogFunc(const char *format, va_list args);
typedef void (*VixDiskLibCompletionCB)(void *data, VixError result);

enum { VIXDISKLIB_CRED_UID = 1, VIXDISKLIB_CRED_SESSIONID = 2 };
enum { VIXDISKLIB_SPEC_VMX = 0 };
enum { VIXDISKLIB_ADAPTER_SCSI_LSILOGIC = 3 };

typedef struct {
  char *vmxSpec; /* "moref=vm-62" */
  char *serverName;
  char *thumbPrint; /* SHA-1 of the certificate, "12:34:..." */
  long privateUse;
  int credType;
  union {
    struct {
      char *userName;
      char *password;
    } uid;
    struct {
      char *cookie;
      char *userName;
      char *key;
    } sessionId;
    void *ticketId;
  } creds;
  uint32_t port;
  uint32_t nfcHostPort;
  char *vimApiVer;
  char reserved[8];
  void *state;
  union {
    struct {
      char *id;
      char *datastoreMoRef;
      char *ssId;
    } vStorageObjSpec;
  } spec;
  int specType;
} VixDiskLibConnectParams;

typedef struct {
  uint32_t cylinders;
  uint32_t heads;
  uint32_t sectors;
} VixDiskLibGeometry;

typedef struct {
  VixDiskLibGeometry biosGeo;
  VixDiskLibGeometry physGeo;
  uint64_t capacity; /* sectors */
  int adapterType;
  int numLinks;
  char *parentFileNameHint;
  char *uuid;
  uint32_t logicalSectorSize;
  uint32_t physicalSectorSize;
} VixDiskLibInfo;

typedef struct {
  uint64_t offset; /* sectors */
  uint64_t length;
} VixDiskLibBlock;

typedef struct {
  uint32_t numBlocks;
  VixDiskLibBlock blocks[];
} VixDiskLibBlockList;

#define VIX_API __attribute__((visibility("default")))

VIX_API VixError VixDiskLib_Init(uint32_t major, uint32_t minor, VixDiskLibGenericLogFunc *log, VixDiskLibGenericLogFunc *warn,
                                 VixDiskLibGenericLogFunc *panic, const char *libDir);
VIX_API VixError VixDiskLib_InitEx(uint32_t major, uint32_t minor, VixDiskLibGenericLogFunc *log, VixDiskLibGenericLogFunc *warn,
                                   VixDiskLibGenericLogFunc *panic, const char *libDir, const char *configFile);
VIX_API void VixDiskLib_Exit(void);
VIX_API const char *VixDiskLib_ListTransportModes(void);
VIX_API VixError VixDiskLib_Cleanup(const VixDiskLibConnectParams *params, uint32_t *cleaned, uint32_t *remaining);

VIX_API VixDiskLibConnectParams *VixDiskLib_AllocateConnectParams(void);
VIX_API void VixDiskLib_FreeConnectParams(VixDiskLibConnectParams *params);
VIX_API VixError VixDiskLib_PrepareForAccess(const VixDiskLibConnectParams *params, const char *identity);
VIX_API VixError VixDiskLib_EndAccess(const VixDiskLibConnectParams *params, const char *identity);
VIX_API VixError VixDiskLib_Connect(const VixDiskLibConnectParams *params, VixDiskLibConnection *connection);
VIX_API VixError VixDiskLib_ConnectEx(const VixDiskLibConnectParams *params, char readOnly, const char *snapshotRef,
                                      const char *transportModes, VixDiskLibConnection *connection);
VIX_API VixError VixDiskLib_Disconnect(VixDiskLibConnection connection);

VIX_API VixError VixDiskLib_Create(VixDiskLibConnection connection, const char *path, const void *params, void *progress, void *data);
VIX_API VixError VixDiskLib_Open(VixDiskLibConnection connection, const char *path, uint32_t flags, VixDiskLibHandle *handle);
VIX_API VixError VixDiskLib_Close(VixDiskLibHandle handle);
VIX_API const char *VixDiskLib_GetTransportMode(VixDiskLibHandle handle);
VIX_API VixError VixDiskLib_GetInfo(VixDiskLibHandle handle, VixDiskLibInfo **info);
VIX_API void VixDiskLib_FreeInfo(VixDiskLibInfo *info);
VIX_API VixError VixDiskLib_Read(VixDiskLibHandle handle, uint64_t startSector, uint64_t numSectors, unsigned char *buf);
VIX_API VixError VixDiskLib_ReadAsync(VixDiskLibHandle handle, uint64_t startSector, uint64_t numSectors, unsigned char *buf,
                                      VixDiskLibCompletionCB callback, void *data);
VIX_API VixError VixDiskLib_Write(VixDiskLibHandle handle, uint64_t startSector, uint64_t numSectors, const unsigned char *buf);
VIX_API VixError VixDiskLib_WriteAsync(VixDiskLibHandle handle, uint64_t startSector, uint64_t numSectors, const unsigned char *buf,
                                       VixDiskLibCompletionCB callback, void *data);
VIX_API VixError VixDiskLib_Wait(VixDiskLibHandle handle);
VIX_API VixError VixDiskLib_Flush(VixDiskLibHandle handle);
VIX_API VixError VixDiskLib_QueryAllocatedBlocks(VixDiskLibHandle handle, uint64_t startSector, uint64_t numSectors, uint64_t chunkSize,
                                                 VixDiskLibBlockList **list);
VIX_API VixError VixDiskLib_FreeBlockList(VixDiskLibBlockList *list);

VIX_API char *VixDiskLib_GetErrorText(VixError err, const char *locale);
VIX_API void VixDiskLib_FreeErrorText(char *text);

#endif
