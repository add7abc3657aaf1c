/* What programs of Rust want of bcryptprimitives.dll, for wine before version 9, which has no such library. For tests. */
#include <windows.h>

BOOLEAN NTAPI SystemFunction036(void *buffer, ULONG length);

__declspec(dllexport) BOOL WINAPI ProcessPrng(void *buffer, SIZE_T length)
{
    return length <= 0xffffffff && SystemFunction036(buffer, (ULONG)length);
}
