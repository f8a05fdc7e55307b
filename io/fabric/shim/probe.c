/* Asks the preprocessor whether libfabric's headers are there. */
#include <rdma/fabric.h>
