// What the stand-in video decoder (nvcuvid.cpp) uses of the stand-in driver (cuda_driver.cpp).

#include <cstddef>

extern "C" {
void stand_in_count(const char* what);                      // one more call
int stand_in_fault(const char* what, int error);            // note a fault; returns `error`
int stand_in_check_context(const char* function);           // count a call that needs the primary context
void stand_in_add_memory(unsigned long long at, size_t size);
int stand_in_remove_memory(unsigned long long at);
}
