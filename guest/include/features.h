/* What libstdc++ asks of the C library that it was built for: nothing of glibc is here. */
#ifndef EMU_FEATURES_H
#define EMU_FEATURES_H

#define __GLIBC_PREREQ(major, minor) 0

#endif
