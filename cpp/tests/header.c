#include <gstk/gstk.h>

const gstk_engine_options gstk_test_options = GSTK_ENGINE_OPTIONS_INIT;
