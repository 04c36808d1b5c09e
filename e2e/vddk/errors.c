/* Texts of the errors: what nbdkit shows to people, and what logs are searched for. */
#include <stdlib.h>
#include <string.h>

#include "vixdisklib.h"

static const struct {
  VixError code;
  const char *text;
} texts[] = {
    {VIX_OK, "The operation was successful"},
    {VIX_E_FAIL, "Unknown error"},
    {VIX_E_OUT_OF_MEMORY, "Memory allocation failed. Out of memory."},
    {VIX_E_INVALID_ARG, "One of the parameters was invalid"},
    {VIX_E_FILE_NOT_FOUND, "A file was not found"},
    {VIX_E_NOT_SUPPORTED, "The operation is not supported"},
    {VIX_E_FILE_READ_ONLY, "The file is write-protected"},
    {VIX_E_FILE_ACCESS_ERROR, "You do not have access rights to this file"},
    {VIX_E_FILE_ALREADY_LOCKED, "The file is already in use"},
    {VIX_E_HOST_USER_PERMISSIONS, "Insufficient permissions in the host operating system"},
    {VIX_E_VM_NOT_FOUND, "The virtual machine cannot be found"},
    {VIX_E_SNAPSHOT_NOTFOUND, "The snapshot does not exist"},
    {VIX_E_HOST_SERVER_NOT_FOUND, "The specified server could not be contacted"},
    {VIX_E_HOST_NETWORK_CONN_REFUSED, "The server refused connection"},
    {VIX_E_HOST_TCP_SOCKET_ERROR, "There was an error in communication"},
    {VIX_E_HOST_TCP_CONN_LOST, "The connection was lost"},
    {VIX_E_DISK_INVAL, "One of the parameters supplied is invalid"},
    {VIX_E_DISK_NOINIT, "The disk library has not been initialized"},
    {VIX_E_DISK_OUTOFRANGE, "You have requested access to an area of the virtual disk that is out of bounds"},
    {VIX_E_DISK_TOOMANYOPENFILES, "The host has reached its limit of open files"},
    {VIX_E_DISK_INVALID_CONNECTION, "The connection is not valid"},
    {VIX_E_DISK_NOLICENSE, "The host is not licensed for this feature"},
    {VIX_E_CANNOT_CONNECT_TO_HOST, "Cannot connect to the host"},
};

char *VixDiskLib_GetErrorText(VixError err, const char *locale)
{
  (void)locale;
  /* Only the low 16 bits are the code (programming guide, "Interpreting Errors Codes"). */
  for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
    if (texts[i].code == (err & 0xffff))
      return strdup(texts[i].text);
  return strdup("Unknown error");
}

void VixDiskLib_FreeErrorText(char *text)
{
  free(text);
}
