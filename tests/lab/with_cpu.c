/* The interpreter of a device's programs: QEMU with the device's CPU, whatever environment a program is started in.
 * binfmt_misc passes this program, the file to run, its argv[0] and its arguments (flag P), and that file opened (flag O). */
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

int main(int argc, char **argv) {
  char *all[argc + 4], path[32];
  int opened = (int)getauxval(AT_EXECFD);
  if (argc < 3) return 127;
  all[0] = "qemu";
  all[1] = "-cpu";
  all[2] = CPU;
  all[3] = "-0";
  all[4] = argv[2];
  all[5] = argv[1];
  memcpy(all + 6, argv + 3, (argc - 2) * sizeof *argv); /* with the NULL at its end */
  if (strncmp(argv[1], "/proc/self/fd/", 14)) {
    close(opened);
  } else { /* fexecve(3): the descriptor in that name was closed by the exec that led here */
    snprintf(path, sizeof path, "/proc/self/fd/%d", opened);
    all[5] = path;
  }
  execv(QEMU, all);
  return 127;
}
