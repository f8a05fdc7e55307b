/*
 * The calls of libfabric that the interconnect needs, as ordinary functions.
 *
 * libfabric's fi_* calls are static inline, so Rust cannot link to them. Most go through tables of the objects; the six
 * real functions are looked up when the library is loaded, at the first use of the interconnect: merely linking to
 * Debian's libfabric makes every program start 0.2 s later, because libpsm measures the processor's clock as it loads.
 * Nothing is decided here: each function is one call, or one call and its error record. Every answer is 0 or a negative
 * fi_errno value. Compiles with libfabric 1.17 and 2.x: the API asked for is 1.17, and no field that moved between the
 * two is touched.
 */
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include <rdma/fabric.h>
#include <rdma/fi_cm.h>
#include <rdma/fi_domain.h>
#include <rdma/fi_endpoint.h>
#include <rdma/fi_eq.h>
#include <rdma/fi_errno.h>
#include <rdma/fi_rma.h>

/* Largest private data of the connection manager that is kept; more than ours is cut off. */
#define UF_PRIVATE_BYTES 64

/* One event of the connection manager, as ffi.rs declares it. */
struct uf_event {
	uint32_t kind; /* FI_CONNREQ 1, FI_CONNECTED 2, FI_SHUTDOWN 3 of enum uf_kind; 0 other; 4 error */
	int32_t error; /* positive fi_errno value, kind 4 only */
	void *fid;     /* endpoint, or passive endpoint, it belongs to */
	struct fi_info *info; /* kind 1: the caller must free it */
	uint32_t length;
	uint8_t bytes[UF_PRIVATE_BYTES];
};

enum uf_kind { UF_OTHER = 0, UF_CONNREQ = 1, UF_CONNECTED = 2, UF_SHUTDOWN = 3, UF_ERROR = 4 };

/* One completion. */
struct uf_completion {
	void *context;
	int32_t error; /* 0, or positive fi_errno value */
};

#ifndef UF_LIBRARY
#define UF_LIBRARY "libfabric.so.1"
#endif

/* The functions that are not static inline. Filled once, by uf_load, before any other call. */
static struct {
	int (*getinfo)(uint32_t version, const char *node, const char *service, uint64_t flags,
		       const struct fi_info *hints, struct fi_info **info);
	void (*freeinfo)(struct fi_info *info);
	struct fi_info *(*dupinfo)(const struct fi_info *info);
	int (*fabric)(struct fi_fabric_attr *attr, struct fid_fabric **fabric, void *context);
	const char *(*strerror)(int error);
	uint32_t (*version)(void);
} library;

/*
 * libfabric and what it brings along install handlers for these signals, when they are loaded or first used, that forget the ones before
 * and end the process. The ones before are put back.
 */
static const int handled[] = { SIGILL, SIGABRT, SIGBUS, SIGSEGV, SIGTERM, SIGINT };
enum { HANDLED = sizeof(handled) / sizeof(handled[0]) };

static void note_handlers(struct sigaction before[HANDLED])
{
	int i;

	for (i = 0; i < HANDLED; i++)
		sigaction(handled[i], NULL, &before[i]);
}

static void put_handlers_back(const struct sigaction before[HANDLED])
{
	int i;

	for (i = 0; i < HANDLED; i++)
		sigaction(handled[i], &before[i], NULL);
}

/* 0, or -1 with the reason as text. Called once. */
int uf_load(char *why, size_t room)
{
	static const char *const names[] = { "fi_getinfo", "fi_freeinfo", "fi_dupinfo",
					     "fi_fabric",  "fi_strerror", "fi_version" };
	void **slots[] = { (void **)&library.getinfo, (void **)&library.freeinfo, (void **)&library.dupinfo,
			   (void **)&library.fabric,  (void **)&library.strerror, (void **)&library.version };
	struct sigaction before[HANDLED];
	void *handle;
	size_t i;

	note_handlers(before);
	handle = dlopen(UF_LIBRARY, RTLD_NOW | RTLD_LOCAL);
	put_handlers_back(before);
	if (!handle) {
		snprintf(why, room, "%s", dlerror());
		return -1;
	}
	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		*slots[i] = dlsym(handle, names[i]);
		if (!*slots[i]) {
			snprintf(why, room, "%s has no %s", UF_LIBRARY, names[i]);
			return -1;
		}
	}
	if (FI_VERSION_LT(library.version(), FI_VERSION(1, 17))) {
		snprintf(why, room, "it is version %u.%u, and 1.17 or newer is needed", FI_MAJOR(library.version()),
			 FI_MINOR(library.version()));
		return -1;
	}
	return 0;
}

static struct fi_info *hints_for(const char *provider, enum fi_ep_type type)
{
	struct fi_info *hints = library.dupinfo(NULL);

	if (!hints)
		return NULL;
	hints->caps = FI_MSG | FI_RMA;
	hints->mode = 0;
	hints->addr_format = FI_FORMAT_UNSPEC;
	hints->ep_attr->type = type;
	hints->domain_attr->mr_mode = FI_MR_LOCAL | FI_MR_VIRT_ADDR | FI_MR_ALLOCATED | FI_MR_PROV_KEY;
	hints->domain_attr->threading = FI_THREAD_SAFE;
	hints->fabric_attr->prov_name = strdup(provider);
	if (!hints->fabric_attr->prov_name) {
		library.freeinfo(hints);
		return NULL;
	}
	return hints;
}

static int find_info(const char *node, const char *service, uint64_t flags, const struct fi_info *hints,
		     struct fi_info **out)
{
	struct sigaction before[HANDLED];
	int status;

	note_handlers(before);
	status = library.getinfo(FI_VERSION(1, 17), node, service, flags, hints, out);
	put_handlers_back(before);
	return status;
}

/* passive 1: an address of this node to listen at; 0: the partner's to connect to. */
int uf_getinfo(const char *provider, const char *node, const char *service, int passive, struct fi_info **out)
{
	struct fi_info *hints = hints_for(provider, FI_EP_MSG);
	int status;

	if (!hints)
		return -FI_ENOMEM;
	status = find_info(node, service, passive ? FI_SOURCE : 0, hints, out);
	library.freeinfo(hints);
	return status;
}

/* Unconnected endpoints whose own name begins with the one given, with queues of that many entries. */
int uf_getinfo_unconnected(const char *provider, const char *name, size_t entries, struct fi_info **out)
{
	struct fi_info *hints = hints_for(provider, FI_EP_RDM);
	int status;

	if (!hints)
		return -FI_ENOMEM;
	status = find_info(name, NULL, FI_SOURCE, hints, out);
	library.freeinfo(hints);
	if (status)
		return status;
	if ((*out)->rx_attr->size > entries)
		(*out)->rx_attr->size = entries;
	if ((*out)->tx_attr->size > entries)
		(*out)->tx_attr->size = entries;
	return 0;
}

void uf_freeinfo(struct fi_info *info)
{
	library.freeinfo(info);
}

/* 1 if remote addresses are the registrar's virtual addresses, 0 if they count from the start of the region. */
int uf_uses_virtual_addresses(const struct fi_info *info)
{
	return (info->domain_attr->mr_mode & FI_MR_VIRT_ADDR) != 0;
}

int uf_fabric(struct fi_info *info, struct fid_fabric **out)
{
	return library.fabric(info->fabric_attr, out, NULL);
}

int uf_domain(struct fid_fabric *fabric, struct fi_info *info, struct fid_domain **out)
{
	return fi_domain(fabric, info, out, NULL);
}

/* Also gives a descriptor that polls readable when the queue has something to look at. */
int uf_eq_open(struct fid_fabric *fabric, struct fid_eq **out, int *descriptor)
{
	struct fi_eq_attr attributes;
	int status;

	memset(&attributes, 0, sizeof(attributes));
	attributes.size = 64;
	attributes.wait_obj = FI_WAIT_FD;
	status = fi_eq_open(fabric, &attributes, out, NULL);
	if (status)
		return status;
	status = fi_control(&(*out)->fid, FI_GETWAIT, descriptor);
	if (status) {
		fi_close(&(*out)->fid);
		*out = NULL;
	}
	return status;
}

/* 0 if it is now safe to sleep on the queue's descriptor (fid_eq or fid_cq), -FI_EAGAIN if there is something first. */
int uf_trywait(struct fid_fabric *fabric, void *queue)
{
	struct fid *fids[1] = { (struct fid *)queue };

	return fi_trywait(fabric, fids, 1);
}

/* -FI_EAGAIN when the queue is empty. */
int uf_eq_read(struct fid_eq *eq, struct uf_event *out)
{
	union {
		struct fi_eq_cm_entry entry;
		uint8_t room[sizeof(struct fi_eq_cm_entry) + 256];
	} answer;
	struct fi_eq_err_entry failure;
	uint8_t detail[256];
	uint32_t event = 0;
	size_t extra = 0;
	ssize_t count;

	memset(out, 0, sizeof(*out));
	memset(&answer, 0, sizeof(answer));
	count = fi_eq_read(eq, &event, &answer, sizeof(answer), 0);
	if (count == -FI_EAVAIL) {
		memset(&failure, 0, sizeof(failure));
		failure.err_data = detail;
		failure.err_data_size = sizeof(detail);
		count = fi_eq_readerr(eq, &failure, 0);
		if (count < 0)
			return (int)count;
		out->kind = UF_ERROR;
		out->error = failure.err;
		out->fid = failure.fid;
		extra = failure.err_data_size < sizeof(out->bytes) ? failure.err_data_size : sizeof(out->bytes);
		if (failure.err_data && extra)
			memcpy(out->bytes, failure.err_data, extra);
		out->length = (uint32_t)(failure.err_data ? extra : 0);
		return 0;
	}
	if (count < 0)
		return (int)count;
	if ((size_t)count > sizeof(struct fi_eq_cm_entry))
		extra = (size_t)count - sizeof(struct fi_eq_cm_entry);
	if (extra > sizeof(out->bytes))
		extra = sizeof(out->bytes);
	switch (event) {
	case FI_CONNREQ:
		out->kind = UF_CONNREQ;
		out->info = answer.entry.info;
		break;
	case FI_CONNECTED:
		out->kind = UF_CONNECTED;
		break;
	case FI_SHUTDOWN:
		out->kind = UF_SHUTDOWN;
		extra = 0;
		break;
	default:
		out->kind = UF_OTHER;
		return 0;
	}
	out->fid = answer.entry.fid;
	out->length = (uint32_t)extra;
	memcpy(out->bytes, answer.entry.data, extra);
	return 0;
}

int uf_passive(struct fid_fabric *fabric, struct fi_info *info, struct fid_eq *eq, struct fid_pep **out)
{
	int status = fi_passive_ep(fabric, info, out, NULL);

	if (status)
		return status;
	status = fi_pep_bind(*out, &eq->fid, 0);
	if (!status)
		status = fi_listen(*out);
	if (status) {
		fi_close(&(*out)->fid);
		*out = NULL;
	}
	return status;
}

/* The socket address bound to; *length is the room on entry and the length on return. */
int uf_passive_name(struct fid_pep *pep, void *address, size_t *length)
{
	return fi_getname(&pep->fid, address, length);
}

int uf_reject(struct fid_pep *pep, struct fi_info *info, const void *bytes, size_t length)
{
	return fi_reject(pep, info->handle, bytes, length);
}

/* As uf_eq_open, for completions. */
int uf_cq_open(struct fid_domain *domain, struct fid_cq **out, int *descriptor)
{
	struct fi_cq_attr attributes;
	int status;

	memset(&attributes, 0, sizeof(attributes));
	attributes.size = 64;
	attributes.format = FI_CQ_FORMAT_CONTEXT;
	attributes.wait_obj = FI_WAIT_FD;
	status = fi_cq_open(domain, &attributes, out, NULL);
	if (status)
		return status;
	status = fi_control(&(*out)->fid, FI_GETWAIT, descriptor);
	if (status) {
		fi_close(&(*out)->fid);
		*out = NULL;
	}
	return status;
}

/* A completion queue that is only looked at, for providers that have nothing to sleep on. */
int uf_cq_open_polled(struct fid_domain *domain, struct fid_cq **out)
{
	struct fi_cq_attr attributes;

	memset(&attributes, 0, sizeof(attributes));
	attributes.size = 64;
	attributes.format = FI_CQ_FORMAT_CONTEXT;
	attributes.wait_obj = FI_WAIT_NONE;
	return fi_cq_open(domain, &attributes, out, NULL);
}

/* -FI_EAGAIN when nothing completed within the time; the wait ends early when uf_cq_signal is called. */
int uf_cq_sread(struct fid_cq *cq, int timeout_ms, struct uf_completion *out)
{
	struct fi_cq_entry entry;
	struct fi_cq_err_entry failure;
	ssize_t count;

	memset(out, 0, sizeof(*out));
	if (timeout_ms == 0)
		count = fi_cq_read(cq, &entry, 1);
	else
		count = fi_cq_sread(cq, &entry, 1, NULL, timeout_ms);
	if (count == 1) {
		out->context = entry.op_context;
		return 0;
	}
	if (count == -FI_EAVAIL) {
		memset(&failure, 0, sizeof(failure));
		count = fi_cq_readerr(cq, &failure, 0);
		if (count != 1)
			return count < 0 ? (int)count : -FI_EAGAIN;
		out->context = failure.op_context;
		out->error = failure.err ? failure.err : FI_EOTHER;
		return 0;
	}
	return count < 0 ? (int)count : -FI_EAGAIN;
}

int uf_cq_signal(struct fid_cq *cq)
{
	return fi_cq_signal(cq);
}

/* An endpoint bound to its queues and enabled. */
int uf_endpoint(struct fid_domain *domain, struct fi_info *info, struct fid_eq *eq, struct fid_cq *cq,
		struct fid_ep **out)
{
	int status = fi_endpoint(domain, info, out, NULL);

	if (status)
		return status;
	status = fi_ep_bind(*out, &eq->fid, 0);
	if (!status)
		status = fi_ep_bind(*out, &cq->fid, FI_TRANSMIT | FI_RECV);
	if (!status)
		status = fi_enable(*out);
	if (status) {
		fi_close(&(*out)->fid);
		*out = NULL;
	}
	return status;
}

/* The same without connections: peers are looked up in an address vector. */
int uf_endpoint_unconnected(struct fid_domain *domain, struct fi_info *info, struct fid_av *av, struct fid_cq *cq,
			    struct fid_ep **out)
{
	struct sigaction before[HANDLED];
	int status;

	note_handlers(before);
	status = fi_endpoint(domain, info, out, NULL);
	put_handlers_back(before);
	if (status)
		return status;
	status = fi_ep_bind(*out, &av->fid, 0);
	if (!status)
		status = fi_ep_bind(*out, &cq->fid, FI_TRANSMIT | FI_RECV);
	if (!status)
		status = fi_enable(*out);
	if (status) {
		fi_close(&(*out)->fid);
		*out = NULL;
	}
	return status;
}

/* The endpoint's own name; *length is the room on entry and the length on return. */
int uf_endpoint_name(struct fid_ep *ep, void *name, size_t *length)
{
	return fi_getname(&ep->fid, name, length);
}

int uf_av_open(struct fid_domain *domain, struct fid_av **out)
{
	struct fi_av_attr attributes;

	memset(&attributes, 0, sizeof(attributes));
	attributes.type = FI_AV_UNSPEC;
	attributes.count = 1;
	return fi_av_open(domain, &attributes, out, NULL);
}

/* Makes the name of a peer known; *peer is what uf_read and uf_write take. */
int uf_av_insert(struct fid_av *av, const char *name, uint64_t *peer)
{
	fi_addr_t address = FI_ADDR_UNSPEC;
	int count = fi_av_insert(av, name, 1, &address, 0, NULL);

	if (count != 1)
		return count < 0 ? count : -FI_EADDRNOTAVAIL;
	*peer = address;
	return 0;
}

int uf_connect(struct fid_ep *ep, struct fi_info *info, const void *bytes, size_t length)
{
	return fi_connect(ep, info->dest_addr, bytes, length);
}

int uf_accept(struct fid_ep *ep, const void *bytes, size_t length)
{
	return fi_accept(ep, bytes, length);
}

int uf_shutdown(struct fid_ep *ep)
{
	return fi_shutdown(ep, 0);
}

/* kind 0: local buffer of reads and writes, 1: readable by the partner, 2: writable by the partner. */
int uf_register(struct fid_domain *domain, void *bytes, size_t length, int kind, uint64_t requested_key,
		struct fid_mr **out, void **descriptor, uint64_t *key)
{
	uint64_t access = kind == 0 ? FI_READ | FI_WRITE : kind == 1 ? FI_REMOTE_READ : FI_REMOTE_READ | FI_REMOTE_WRITE;
	int status = fi_mr_reg(domain, bytes, length, access, 0, requested_key, 0, out, NULL);

	if (status)
		return status;
	*descriptor = fi_mr_desc(*out);
	*key = fi_mr_key(*out);
	return 0;
}

/* peer: from uf_av_insert, or 0 on a connected endpoint. */
int uf_read(struct fid_ep *ep, void *bytes, size_t length, void *descriptor, uint64_t peer, uint64_t address,
	    uint64_t key, void *context)
{
	return (int)fi_read(ep, bytes, length, descriptor, peer, address, key, context);
}

int uf_write(struct fid_ep *ep, const void *bytes, size_t length, void *descriptor, uint64_t peer, uint64_t address,
	     uint64_t key, void *context)
{
	return (int)fi_write(ep, bytes, length, descriptor, peer, address, key, context);
}

/* Any of the objects above: they all begin with a struct fid. */
int uf_close(void *object)
{
	return fi_close((struct fid *)object);
}

const char *uf_strerror(int error)
{
	return library.strerror ? library.strerror(error) : "libfabric is not loaded";
}

/*
 * Names the providers worth using, unless the operator named some: of the others, psm may leave files behind after a
 * crash.
 */
int uf_prefer_providers(const char *names)
{
	return setenv("FI_PROVIDER", names, 0) ? -errno : 0;
}
