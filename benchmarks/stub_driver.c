/* A libcuda.so.1 that knows one device, keeps nothing and counts launches: what lies above it is what a launch costs. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include "cuda.h"

long launches, functions;
void (*heard)(const CUlaunchConfig *, CUfunction, void **); /* called for each launch, if there is one */

CUresult cuGetErrorString(CUresult e, const char **s) { *s = "the stub driver"; return CUDA_SUCCESS; }
CUresult cuInit(unsigned f) { return CUDA_SUCCESS; }
CUresult cuDriverGetVersion(int *v) { *v = 12080; return CUDA_SUCCESS; }
CUresult cuDeviceGet(CUdevice *d, int n) { *d = n; return CUDA_SUCCESS; }
CUresult cuDeviceGetCount(int *n) { *n = 1; return CUDA_SUCCESS; }
CUresult cuDeviceGetAttribute(int *v, CUdevice_attribute a, CUdevice d) {
  switch (a) {
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: *v = 232448; break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR: *v = 233472; break;
    case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK: *v = 65536; break;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *v = 132; break;
    case CU_DEVICE_ATTRIBUTE_WARP_SIZE: *v = 32; break;
    default: *v = 1;
  }
  return CUDA_SUCCESS;
}
CUresult cuCtxGetCurrent(CUcontext *c) { *c = (CUcontext)&launches; return CUDA_SUCCESS; }
CUresult cuCtxSetCurrent(CUcontext c) { return CUDA_SUCCESS; }
CUresult cuCtxGetDevice(CUdevice *d) { *d = 0; return CUDA_SUCCESS; }
CUresult cuCtxGetLimit(size_t *v, CUlimit l) { *v = 0; return CUDA_SUCCESS; }
CUresult cuCtxSetLimit(CUlimit l, size_t v) { return CUDA_SUCCESS; }
CUresult cuDevicePrimaryCtxRetain(CUcontext *c, CUdevice d) { *c = (CUcontext)&launches; return CUDA_SUCCESS; }
CUresult cuStreamIsCapturing(CUstream s, CUstreamCaptureStatus *c) { *c = 0; return CUDA_SUCCESS; }
CUresult cuModuleLoadData(CUmodule *m, const void *p) { *m = (CUmodule)&launches; return CUDA_SUCCESS; }
CUresult cuModuleUnload(CUmodule m) { return CUDA_SUCCESS; }
CUresult cuModuleGetFunction(CUfunction *f, CUmodule m, const char *n) { *f = (CUfunction)++functions; return CUDA_SUCCESS; }
CUresult cuFuncGetAttribute(int *v, CUfunction_attribute a, CUfunction f) {
  *v = a == CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK ? 1024 : 0;
  return CUDA_SUCCESS;
}
CUresult cuFuncSetAttribute(CUfunction f, CUfunction_attribute a, int v) { return CUDA_SUCCESS; }
CUresult cuFuncSetCacheConfig(CUfunction f, CUfunc_cache c) { return CUDA_SUCCESS; }
CUresult cuPointerGetAttribute(void *out, CUpointer_attribute a, CUdeviceptr p) { *(CUdeviceptr *)out = p; return CUDA_SUCCESS; }
CUresult cuOccupancyMaxActiveClusters(int *n, CUfunction f, const CUlaunchConfig *c) { *n = 1; return CUDA_SUCCESS; }
CUresult cuTensorMapEncodeTiled(CUtensorMap *t, CUtensorMapDataType y, cuuint32_t r, void *p, const cuuint64_t *d,
                                const cuuint64_t *s, const cuuint32_t *b, const cuuint32_t *e, CUtensorMapInterleave i,
                                CUtensorMapSwizzle z, CUtensorMapL2promotion l, CUtensorMapFloatOOBfill f) {
  return CUDA_SUCCESS;
}
CUresult cuLaunchKernelEx(const CUlaunchConfig *c, CUfunction f, void **p, void **x) {
  launches++;
  if (heard) heard(c, f, p);
  return CUDA_SUCCESS;
}
/* As cuda-bindings asks. */
CUresult cuGetProcAddress_v2(const char *name, void **found, int version, cuuint64_t flags,
                             CUdriverProcAddressQueryResult *result) {
  Dl_info own;
  dladdr((void *)cuGetProcAddress_v2, &own);
  *found = dlsym(dlopen(own.dli_fname, RTLD_LAZY | RTLD_NOLOAD), name);
  return *found ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}
CUresult cuLibraryLoadData(CUlibrary *l, const void *code, CUjit_option *o, void **ov, unsigned n,
                           CUlibraryOption *lo, void **lov, unsigned ln) {
  *l = (CUlibrary)&launches;
  return CUDA_SUCCESS;
}
CUresult cuLibraryGetKernel(CUkernel *k, CUlibrary l, const char *name) { *k = (CUkernel)++functions; return CUDA_SUCCESS; }
CUresult cuKernelGetFunction(CUfunction *f, CUkernel k) { *f = (CUfunction)k; return CUDA_SUCCESS; }
CUresult cuLaunchKernel(CUfunction f, unsigned x, unsigned y, unsigned z, unsigned tx, unsigned ty, unsigned tz,
                        unsigned shared, CUstream s, void **p, void **extra) {
  CUlaunchConfig config = {x, y, z, tx, ty, tz, shared, s, 0, 0};
  return cuLaunchKernelEx(&config, f, p, extra);
}
CUresult cuLaunchCooperativeKernel(CUfunction f, unsigned x, unsigned y, unsigned z, unsigned tx, unsigned ty,
                                   unsigned tz, unsigned shared, CUstream s, void **p) {
  return cuLaunchKernel(f, x, y, z, tx, ty, tz, shared, s, p, 0);
}
/* As NVRTC asks, which sees for itself whether it finds what it wants. */
CUresult cuGetExportTable(const void **table, const CUuuid *id) { return CUDA_ERROR_NOT_FOUND; }
