/* gstk: interactive segmentation of 3D medical images, for hosts in C and C++. A click gives a mask.
 *
 *     gstk_engine *engine = NULL;
 *     gstk_session *session = NULL;
 *     gstk_volume *volume = NULL;
 *     const double click[3] = {40, 88, 120};
 *     if (gstk_engine_open("tiny", NULL, &engine) || gstk_session_open(engine, NULL, &session) ||
 *         gstk_volume_read("scan.nii.gz", &volume) || gstk_session_set_image(session, volume) ||
 *         gstk_session_add_point(session, click, 1, 1, NULL) ||
 *         gstk_session_read_mask(session, NULL, mask, voxel_count))
 *         fprintf(stderr, "%s\n", gstk_last_error());
 *     gstk_session_close(session);
 *     gstk_volume_close(volume);
 *     gstk_engine_close(engine);
 *
 * Axes. Every triple is (z, y, x), x varies fastest in memory, and voxel (0, 0, 0) comes first: the layout of ITK, VTK
 * and NumPy. Whole numbers are voxel centres.
 *
 * Results. A call returns GSTK_OK or what went wrong, and gstk_last_error then says in one line what was got, what was
 * expected and what to do. A call that fails changes nothing, and leaves its outputs as they were.
 *
 * Threads. Every function may be called from any thread at any time. Calls on one session wait for each other, but for
 * gstk_session_cancel and gstk_session_set_time_limit; so do encodes, and decodes, of one engine. Sessions on one
 * engine share its weights.
 *
 * Ownership. What an `open`, `read`, `wrap` or `encode` function puts out is the caller's, to be given to the `close`
 * function of its type, in any order: a session keeps what it needs of its engine and volume alive. A handle is a token
 * that is never used twice, so a closed one, and one of another type, is recognised and refused with
 * GSTK_ERROR_CLOSED. Closing NULL does nothing.
 *
 * Scope. Points, boxes, several objects, undo and redo, with the masks that Python gives without extras. Not here, but in
 * Python: segmenting classes, tiles along an object that runs out of the training's patch (it is seen in one coarser
 * window, and the call's report says so), objects that begin with a mask, scribbles, lassos, DICOM. An object takes any
 * number of clicks; the network is given the first one on the object and the latest 127.
 *
 * Extension. Structures that may grow begin with `struct_size`; set it with their _INIT macro. Later versions add
 * fields at the end and treat those that an older caller did not have as their defaults.
 */
#ifndef GSTK_GSTK_H
#define GSTK_GSTK_H

#include <stddef.h>
#include <stdint.h>

#if defined(GSTK_STATIC)
#define GSTK_EXPORT
#elif defined(_WIN32)
#ifdef GSTK_BUILDING
#define GSTK_EXPORT __declspec(dllexport)
#else
#define GSTK_EXPORT __declspec(dllimport)
#endif
#else
#define GSTK_EXPORT __attribute__((visibility("default")))
#endif

#if defined(__GNUC__)
#define GSTK_MUST_CHECK __attribute__((warn_unused_result))
#else
#define GSTK_MUST_CHECK
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum gstk_status {
    GSTK_OK = 0,
    GSTK_ERROR_ARGUMENT = 1,         /* a null pointer, an unknown enumerator, a buffer of the wrong size */
    GSTK_ERROR_CLOSED = 2,           /* a handle that was closed, or is of another type */
    GSTK_ERROR_STATE = 3,            /* a call that needs another one before it, such as set_image */
    GSTK_ERROR_CASE = 4,             /* a volume that cannot be read, or holds what cannot be segmented */
    GSTK_ERROR_GEOMETRY = 5,         /* a shape or spacing that is none */
    GSTK_ERROR_PROMPT = 6,           /* a click or box that is malformed or outside the image */
    GSTK_ERROR_OUTPUT = 7,           /* a result that cannot be written */
    GSTK_ERROR_BUNDLE = 8,           /* a bundle that is incomplete, altered, or of an unknown schema */
    GSTK_ERROR_ENGINE = 9,           /* a tensor that an engine cannot take, or a backend that failed */
    GSTK_ERROR_BACKEND_MISSING = 10, /* a backend that this library was built without */
    GSTK_ERROR_MEMORY = 11,          /* not enough memory */
    GSTK_ERROR_INTERNAL = 12,        /* a fault of gstk; please report it */
    GSTK_ERROR_CANCELLED = 13,       /* a call that gstk_session_cancel ended */
    GSTK_ERROR_DRIVER = 15,          /* no NVIDIA driver that the backend can use, or no GPU */
    GSTK_ERROR_DEVICE = 16,          /* a CUDA error, in this call or before: the process uses the GPU no more */
    GSTK_ERROR_ARCHITECTURE = 17,    /* a backend or a plan that is not for this GPU */
    GSTK_ERROR_PLAN = 18,            /* a TensorRT plan that is missing, stale, altered or a stranger's */
    GSTK_ERROR_PROFILE = 19          /* a volume whose values are not what the network's input profile asks for */
} gstk_status;

typedef enum gstk_dtype {
    GSTK_UINT8 = 1,
    GSTK_INT8 = 2,
    GSTK_UINT16 = 3,
    GSTK_INT16 = 4,
    GSTK_UINT32 = 5,
    GSTK_INT32 = 6,
    GSTK_UINT64 = 7,
    GSTK_INT64 = 8,
    GSTK_FLOAT32 = 9,
    GSTK_FLOAT64 = 10
} gstk_dtype;

typedef struct gstk_engine gstk_engine;       /* a bundle opened by a backend */
typedef struct gstk_embedding gstk_embedding; /* a region that an engine encoded */
typedef struct gstk_volume gstk_volume;       /* voxels and their spacing */
typedef struct gstk_session gstk_session;     /* an image, prompts on its objects, and their masks */

/* Voxels from `start`, inside, to `stop`, outside, along (z, y, x). This structure never grows. */
typedef struct gstk_region {
    int64_t start[3];
    int64_t stop[3];
} gstk_region;

/* Version of the library, "1.2.3". The text is static. */
GSTK_EXPORT const char* gstk_version(void);

/* Backends that this library was built with, the preferred one first, separated by commas. The text is static. */
GSTK_EXPORT const char* gstk_backends(void);

/* What went wrong in this thread's latest failed call, one line of UTF-8; "" before the first. It is valid until the
 * thread's next call that fails. Do not free it. */
GSTK_EXPORT const char* gstk_last_error(void);

/* ---- Engines ---------------------------------------------------------------------------------------------------- */

typedef struct gstk_engine_options {
    uint32_t struct_size;
    int32_t threads;       /* processor threads to compute with; 0 leaves it to the backend */
    const char* backend;   /* a name from gstk_backends, or "auto" for the first of them that can run the bundle here */
    const char* precision; /* "fp32" or another that the bundle holds, such as "int8"; "auto" is "fp16" on a GPU where
                              the bundle has it, and "fp32" otherwise */
    const char* device;    /* "auto", "cpu", "cuda" for the first NVIDIA GPU, or "cuda:N" */
    const char* plans;     /* for "tensorrt": folder of the plans that `gstk build` made, UTF-8; NULL for the bundle's
                              `engines` and the user's cache */
    const char* cache;     /* for "openvino": folder of compiled graphs, UTF-8, which load faster than they compile; it is
                              made where it is missing, and must be the user's own. NULL keeps none */
} gstk_engine_options;
#define GSTK_ENGINE_OPTIONS_INIT \
    { (uint32_t)sizeof(gstk_engine_options), 0, "auto", "auto", "auto", NULL, NULL }

typedef struct gstk_engine_info {
    uint32_t struct_size;
    uint32_t roi_multiple;  /* every side of a region is a multiple of it, in voxels */
    uint32_t roi_minimum;   /* least side of a region */
    uint32_t reserved;      /* 0 */
    int64_t roi_default[3]; /* sides (z, y, x) of the region that the network was trained on */
    const char* backend;    /* these texts belong to the engine and are valid until it is closed */
    const char* version;    /* of the backend */
    const char* device;     /* what it runs on, in words */
    const char* precision;
    const char* model; /* name of the model */
} gstk_engine_info;
#define GSTK_ENGINE_INFO_INIT \
    { (uint32_t)sizeof(gstk_engine_info), 0, 0, 0, {0, 0, 0}, NULL, NULL, NULL, NULL, NULL }

/* Opens a bundle, after every file in it was compared with the SHA-256 that its manifest gives.
 * bundle_path: the folder that `gstk export` wrote, UTF-8; or the name of a bundle, such as "tiny", in one of the folders
 * that the environment's GSTK_BUNDLES names (separated by colons), in share/gstk/bundles of the installation, or in the
 * source tree that the library was built from. options: NULL for the defaults. */
GSTK_EXPORT GSTK_MUST_CHECK gstk_status gstk_engine_open(const char* bundle_path, const gstk_engine_options* options,
                                                         gstk_engine** engine);

/* Describes an engine; `info` must have its struct_size set. */
GSTK_EXPORT GSTK_MUST_CHECK gstk_status gstk_engine_describe(gstk_engine* engine, gstk_engine_info* info);

/* Encodes a region once, for any number of decodes. Only hosts that choose their own regions need this: a session does
 * it by itself.
 * image: float32 (z, y, x), 0..1. shape_zyx: its sides, multiples of roi_multiple and at least roi_minimum. */
GSTK_EXPORT GSTK_MUST_CHECK gstk_status gstk_engine_encode(gstk_engine* engine, const float* image,
                                                           const int64_t shape_zyx[3], gstk_embedding** embedding);

/* Decodes the prompts of objects in one region.
 * embedding: from gstk_engine_encode of this engine.
 * coords: float32 [objects, points, 3], voxel indices (z, y, x) of the region.
 * labels: int64 [objects, points]: -1 padding, 0 and 1 background and foreground, 2 and 3 the same for special classes,
 * 4 and 5 for an object of no trained class; -2 for a point that is ignored, as if it were not there. Bundles of an older
 * gstk lack 4 and 5, or -2, and refuse them. Every object has a point that is neither -1 nor -2.
 * logits: float32 [objects, z, y, x], written; above 0 is the object. logits_count: its length in floats. */
GSTK_EXPORT GSTK_MUST_CHECK gstk_status gstk_engine_decode(gstk_engine* engine, gstk_embedding* embedding,
                                                           const float* coords, const int64_t* labels, size_t objects,
                                                           size_t points, float* logits, size_t logits_count);

GSTK_EXPORT gstk_status gstk_embedding_close(gstk_embedding* embedding);
GSTK_EXPORT gstk_status gstk_engine_close(gstk_engine* engine);

/* ---- Volumes ---------------------------------------------------------------------------------------------------- */

typedef struct gstk_volume_info {
    uint32_t struct_size;
    gstk_dtype dtype;
    int64_t shape_zyx[3];
    double spacing_mm_zyx[3];
    const void* voxels; /* belongs to the volume and is valid until it is closed and no session has it */
} gstk_volume_info;
#define GSTK_VOLUME_INFO_INIT \
    { (uint32_t)sizeof(gstk_volume_info), GSTK_UINT8, {0, 0, 0}, {0, 0, 0}, NULL }

/* What a volume's voxels mean and how they lie in the patient. A network's input profile asks for it: with other units or
 * axes than it was trained on, a network gives another mask without an error. */
typedef struct gstk_volume_metadata {
    uint32_t struct_size;
    int32_t has_orientation; /* not 0: `direction` and `origin_mm` are known; else its axes count as running to the
                                patient's right, front and head, x, y and z */
    const char* units;       /* "HU"; "0-255" for intensities that were windowed already, as the challenge's cases are; NULL
                                or "" where nothing says what the values are */
    const char* modality;    /* of DICOM, such as "CT" or "MR"; NULL or "" where it is not known */
    double direction[9];     /* row by row, as ITK has it: its columns are the directions of the x, y and z axes, LPS */
    double origin_mm[3];     /* (x, y, z), LPS, of the centre of the first voxel */
} gstk_volume_metadata;
#define GSTK_VOLUME_METADATA_INIT \
    { (uint32_t)sizeof(gstk_volume_metadata), 0, NULL, NULL, {1, 0, 0, 0, 1, 0, 0, 0, 1}, {0, 0, 0} }

/* Makes a volume of the caller's memory, without a copy. What its values mean is not known: gstk_volume_set_metadata.
 * voxels: (z, y, x), contiguous, finite; they must not change while the volume or a session uses them.
 * spacing_mm_zyx: voxel size in mm, each above 0.
 * release: called once, with user_data, when gstk has no more use for the voxels; from whichever thread let go of them
 * last. NULL where the caller knows by itself. It must not throw, and is not called where this function fails. */
GSTK_EXPORT GSTK_MUST_CHECK gstk_status gstk_volume_wrap(const void* voxels, gstk_dtype dtype,
                                                         const int64_t shape_zyx[3], const double spacing_mm_zyx[3],
                                                         void (*release)(void* user_data), void* user_data,
                                                         gstk_volume** volume);

/* Reads a volume: .npz with `imgs` (z, y, x) and `spacing` (1 mm where there is none), or NIfTI, .nii or .nii.gz.
 * DICOM, NRRD and MetaImage are not read: `gstk prepare` makes .npz of them, or a host hands over what its own reader gave
 * (gstk_volume_wrap). Nothing in the file is run. */
GSTK_EXPORT GSTK_MUST_CHECK gstk_status gstk_volume_read(const char* path, gstk_volume** volume);

/* Describes a volume; `info` must have its struct_size set. */
GSTK_EXPORT GSTK_MUST_CHECK gstk_status gstk_volume_describe(gstk_volume* volume, gstk_volume_info* info);

/* What is known of a volume; `metadata` must have its struct_size set. A file of NIfTI says how it lies, and neither its
 * units nor its modality; uint8, and an .npz of whole numbers from 0 to 255, count as "0-255". The texts are valid until
 * the metadata are set anew or the volume is closed. */
GSTK_EXPORT GSTK_MUST_CHECK gstk_status gstk_volume_get_metadata(gstk_volume* volume, gstk_volume_metadata* metadata);

/* States what the host knows of a volume, all of it at once: get the metadata, change what is known better, and set them.
 * Sessions that have the volume already go on with what they were told. Masks of a volume that was read from NIfTI carry
 * its header as long as its place is as it was. */
GSTK_EXPORT GSTK_MUST_CHECK gstk_status gstk_volume_set_metadata(gstk_volume* volume,
                                                                 const gstk_volume_metadata* metadata);

/* Writes a mask of the volume's shape, whole or not at all: .npz with `segs`, or .nii or .nii.gz. A volume that was
 * read from NIfTI hands its position in the patient on to a NIfTI mask.
 * mask: uint16 (z, y, x), count: its length in voxels. */
GSTK_EXPORT GSTK_MUST_CHECK gstk_status gstk_volume_write_mask(gstk_volume* volume, const uint16_t* mask, size_t count,
                                                               const char* path);

GSTK_EXPORT gstk_status gstk_volume_close(gstk_volume* volume);

/* ---- Sessions --------------------------------------------------------------------------------------------------- */

typedef struct gstk_session_options {
    uint32_t struct_size;
    int32_t refine;        /* whether the image corrects the network's logits: 1 yes, 0 no, -1 as the bundle says */
    int64_t window_voxels; /* most voxels that the network sees at once; 0: as many as it was trained on */
    int64_t cache_bytes;   /* memory for the embeddings of windows, so that going back to one is quick; 0: 2 GiB */
    int32_t windows;       /* 0: wider and narrower windows follow the first where the mask asks for them; 1: windows stay as
                              the first, which is the training's around the click, as in NVIDIA's pipeline */
    int32_t reserved;      /* 0 */
} gstk_session_options;
#define GSTK_SESSION_OPTIONS_INIT \
    { (uint32_t)sizeof(gstk_session_options), -1, 0, 0, 0, 0 }

typedef struct gstk_point {
    int64_t zyx[3];     /* voxel */
    int32_t foreground; /* not 0: the object is there */
    int32_t novel;      /* not 0, at any of an object's points: it is of no class that the network was trained on */
} gstk_point;

/* A box in voxels: its first and last, both inside it, and the slice between them on which it was drawn. */
typedef struct gstk_box {
    int64_t first_zyx[3];
    int64_t last_zyx[3];
    int64_t z_mid;
} gstk_box;

typedef struct gstk_window {
    double start[3];  /* first face along (z, y, x) in voxels of the volume, 0 is the volume's own */
    double step[3];   /* voxels of the volume per voxel of the window */
    int64_t shape[3]; /* voxels of the window */
} gstk_window;

/* What the latest call that made an object's mask took, and what it skipped to stay in time. */
typedef struct gstk_call_report {
    uint32_t struct_size;
    int32_t is_fallback; /* not 0: the mask is not the network's answer to all prompts, but made from the prompts alone;
                            the object's next prompt asks the network again */
    double limit_s;      /* seconds that the call was given; 0: any number */
    double spent_s;      /* wall time */
    int64_t encodes;     /* runs of the network's halves */
    int64_t decodes;
    const char* compromises; /* what was skipped, mostly to stay in time, a sentence a line, "" for nothing; belongs to the
                                session, valid until its next call that makes a mask, or until it is closed */
} gstk_call_report;
#define GSTK_CALL_REPORT_INIT \
    { (uint32_t)sizeof(gstk_call_report), 0, 0, 0, 0, 0, NULL }

/* Opens a session on an engine. options: NULL for the defaults. */
GSTK_EXPORT GSTK_MUST_CHECK gstk_status gstk_session_open(gstk_engine* engine, const gstk_session_options* options,
                                                          gstk_session** session);

/* How an image's intensities are to be read. */
typedef struct gstk_image_options {
    uint32_t struct_size;
    uint32_t reserved;
    const char* intensity_window; /* for networks that take 0 to 255, how other intensities are brought there: "soft",
                                     "lung", "brain" or "bone", a CT window; "width,level", such as "400,40";
                                     "percentile"; or "auto", as NULL: the soft-tissue window where the volume is CT or
                                     looks like it, whole numbers from 0 to 255 as they are, else percentiles */
    const char* assume_window;    /* for networks that take HU: the window by which 0 to 255 were made of them, which is
                                     taken back with loss, or "hu" for values that are HU; NULL: values are HU or refused */
} gstk_image_options;
#define GSTK_IMAGE_OPTIONS_INIT \
    { (uint32_t)sizeof(gstk_image_options), 0, NULL, NULL }

/* How an image was prepared for the network. */
typedef struct gstk_image_report {
    uint32_t struct_size;
    uint32_t reserved;
    const char* profile;     /* name of the network's input profile; these texts are valid until the session's next image */
    const char* intensities; /* what was done to the image's values, in words */
    const char* warnings;    /* what is probably not what the network was trained on, or was odd about the file, a sentence a
                                line; "" for nothing */
} gstk_image_report;
#define GSTK_IMAGE_REPORT_INIT \
    { (uint32_t)sizeof(gstk_image_report), 0, NULL, NULL, NULL }

/* Takes an image, prepares it as the network's input profile says, and forgets the objects of the one before. The volume
 * may be closed afterwards. GSTK_ERROR_PROFILE where its values are not what the profile asks for. */
GSTK_EXPORT GSTK_MUST_CHECK gstk_status gstk_session_set_image(gstk_session* session, gstk_volume* volume);

/* The same with options; NULL for the defaults. */
GSTK_EXPORT GSTK_MUST_CHECK gstk_status gstk_session_set_image_with(gstk_session* session, gstk_volume* volume,
                                                                    const gstk_image_options* options);

/* Reports on the image: show it to the user. `report` must have its struct_size set. */
GSTK_EXPORT GSTK_MUST_CHECK gstk_status gstk_session_get_image_report(gstk_session* session, gstk_image_report* report);

/* Adds a click and updates the object's mask.
 * zyx: voxel index, rounded to the nearest voxel, inside the image. foreground: not 0 where the object is there.
 * object_id: 1..65535.
 * changed: NULL, or where to put the region outside which the mask did not change. */
GSTK_EXPORT GSTK_MUST_CHECK gstk_status gstk_session_add_point(gstk_session* session, const double zyx[3],
                                                               int foreground, uint32_t object_id,
                                                               gstk_region* changed);

/* The same for an object that is of no class which the network was trained on (zero-shot): the network is told so at this
 * and all later prompts of the object, until it is reset. GSTK_ERROR_ENGINE for bundles of an older gstk, which lack it. */
GSTK_EXPORT GSTK_MUST_CHECK gstk_status gstk_session_add_novel_point(gstk_session* session, const double zyx[3],
                                                                     int foreground, uint32_t object_id,
                                                                     gstk_region* changed);

/* Sets an object's box and updates its mask. A box alone stands for a click at its middle. */
GSTK_EXPORT GSTK_MUST_CHECK gstk_status gstk_session_add_box(gstk_session* session, const gstk_box* box,
                                                             uint32_t object_id, gstk_region* changed);

/* Replaces all prompts of an object, in one step. The prompts that the object has already change nothing, and leave
 * nothing to undo. box: may be NULL; points: may be NULL where count is 0. */
GSTK_EXPORT GSTK_MUST_CHECK gstk_status gstk_session_set_prompts(gstk_session* session, const gstk_box* box,
                                                                 const gstk_point* points, size_t count,
                                                                 uint32_t object_id, gstk_region* changed);

/* Takes back the latest change of any object's prompts, up to 1,000 of them; GSTK_ERROR_PROMPT where there is none. The
 * masks of the latest 100, or 512 MiB, are kept; an older one is computed again, which no time limit binds and
 * gstk_session_cancel ends. */
GSTK_EXPORT GSTK_MUST_CHECK gstk_status gstk_session_undo(gstk_session* session, gstk_region* changed);

/* Does again what gstk_session_undo took back last; GSTK_ERROR_PROMPT where nothing was, or where a new prompt or a reset
 * came after it. */
GSTK_EXPORT GSTK_MUST_CHECK gstk_status gstk_session_redo(gstk_session* session, gstk_region* changed);

/* Forgets an object, or all of them with object_id 0. */
GSTK_EXPORT GSTK_MUST_CHECK gstk_status gstk_session_reset(gstk_session* session, uint32_t object_id);

/* Copies the mask: object ids, 0 elsewhere. Where objects overlap, the logits decide, and which mask is smaller; a voxel
 * that was clicked as one object's is that object's.
 * region: NULL for all of it, or a part, such as a call's `changed`.
 * mask: uint16 (z, y, x) of the region, contiguous. count: its length, which must be the region's voxels. */
GSTK_EXPORT GSTK_MUST_CHECK gstk_status gstk_session_read_mask(gstk_session* session, const gstk_region* region,
                                                               uint16_t* mask, size_t count);

/* The part of the volume that the network saw for an object; GSTK_ERROR_STATE before its first mask. */
GSTK_EXPORT GSTK_MUST_CHECK gstk_status gstk_session_get_window(gstk_session* session, uint32_t object_id,
                                                                gstk_window* window);

/* How often the session encoded and decoded; either pointer may be NULL. */
GSTK_EXPORT GSTK_MUST_CHECK gstk_status gstk_session_get_counts(gstk_session* session, int64_t* encodes,
                                                                int64_t* decodes);

/* Has each call that makes a mask end within so many seconds, from the next one on: in the finest window that the
 * session's latest runs of the network say there is time for, or, where the network did not answer in time at all, with
 * a mask made from the prompts alone. The call's report says which. A call's time begins when those before it, on the
 * same session, have ended. This function waits for nothing. What Python's planner does besides (a latency model of the
 * host, memory that is free, a budget of several calls) is not done here.
 * seconds: 0 is any number. */
GSTK_EXPORT GSTK_MUST_CHECK gstk_status gstk_session_set_time_limit(gstk_session* session, double seconds);

/* Ends the call on the session that another thread is in: it returns GSTK_ERROR_CANCELLED, and all is as it was before
 * it. This function waits for nothing. A call that needs the network no more ends as usual, and calls that begin later
 * are not concerned. */
GSTK_EXPORT gstk_status gstk_session_cancel(gstk_session* session);

/* Reports on the latest call that made a mask; `report` must have its struct_size set. */
GSTK_EXPORT GSTK_MUST_CHECK gstk_status gstk_session_get_report(gstk_session* session, gstk_call_report* report);

GSTK_EXPORT gstk_status gstk_session_close(gstk_session* session);

#ifdef __cplusplus
}
#endif
#endif
