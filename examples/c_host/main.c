/* The smallest host, in C: one click, one mask.
 *
 *     c_host BUNDLE VOLUME MASK Z Y X
 */
#include <gstk/gstk.h>
#include <stdio.h>
#include <stdlib.h>

int main(int count, char** arguments) {
    gstk_engine* engine = NULL;
    gstk_volume* volume = NULL;
    gstk_session* session = NULL;
    gstk_volume_info info = GSTK_VOLUME_INFO_INIT;
    gstk_image_report report = GSTK_IMAGE_REPORT_INIT;
    uint16_t* mask = NULL;
    size_t voxels = 0;
    double click[3];
    int status = 1;

    if (count != 7) {
        fprintf(stderr, "usage: c_host BUNDLE VOLUME MASK Z Y X\n");
        return 2;
    }
    for (int axis = 0; axis < 3; ++axis) click[axis] = strtod(arguments[4 + axis], NULL);
    if (gstk_engine_open(arguments[1], NULL, &engine) || gstk_volume_read(arguments[2], &volume) ||
        gstk_volume_describe(volume, &info) || gstk_session_open(engine, NULL, &session) ||
        gstk_session_set_image(session, volume) || gstk_session_get_image_report(session, &report))
        goto failed;
    if (*report.warnings) fprintf(stderr, "warnings:\n%s\n", report.warnings);
    if (gstk_session_add_point(session, click, 1, 1, NULL)) goto failed;
    voxels = (size_t)(info.shape_zyx[0] * info.shape_zyx[1] * info.shape_zyx[2]);
    mask = malloc(voxels * sizeof *mask);
    if (!mask) {
        fprintf(stderr, "error: no memory for a mask of %zu voxels\n", voxels);
        goto done;
    }
    if (gstk_session_read_mask(session, NULL, mask, voxels) ||
        gstk_volume_write_mask(volume, mask, voxels, arguments[3]))
        goto failed;
    status = 0;
    goto done;
failed:
    fprintf(stderr, "error: %s\n", gstk_last_error());
done:
    free(mask);
    gstk_session_close(session);
    gstk_volume_close(volume);
    gstk_engine_close(engine);
    return status;
}
