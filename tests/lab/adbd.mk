# adbd, as AOSP's platform tools 29.0.6 have it in Debian's source package, for a Linux with glibc under /system/lib64.
# Run in the unpacked source: make -f adbd.mk CXX= CC= BSSL=<unpacked android-libboringssl-dev> TRIPLET= LOADER= OUT=
S = system/core
adb = adb adb_io adb_listeners adb_trace adb_unique_fd adb_utils fdevent/fdevent fdevent/fdevent_poll fdevent/fdevent_epoll \
  services sockets socket_spec sysdeps/errno transport transport_fd transport_local transport_usb types sysdeps_unix \
  sysdeps/posix/network daemon/auth daemon/jdwp_service daemon/usb_dummy daemon/file_sync_service daemon/services \
  daemon/shell_service daemon/main shell_service_protocol adbconnection/adbconnection_server
base = chrono_utils cmsg file liblog_symbols logging mapped_file parsebool parsenetaddress process properties stringprintf \
  strings threads test_utils errors_unix abi_compatibility
log = log_event_list log_event_write logger_name logger_read logger_write logprint properties event_tag_map
cutils = fs hashmap multiuser socket_inaddr_any_server_unix socket_local_client_unix socket_local_server_unix \
  socket_network_client_unix sockets_unix str_parms config_utils canned_fs_config iosched_policy load_file native_handle \
  record_stream sockets threads ashmem-host fs_config trace-host android_get_control_file
C = $S/libcutils/strlcpy $S/libcrypto_utils/android_pubkey
CPP = $(adb:%=$S/adb/%) $(base:%=$S/base/%) $(log:%=$S/liblog/%) $(cutils:%=$S/libcutils/%) \
  $S/diagnose_usb/diagnose_usb $S/libasyncio/AsyncIO frameworks/native/libs/adbd_auth/adbd_auth
# libcutils first: it has a file named like one of libbase's. `compat` holds the one header that Linux lacks.
include = $S/libcutils/include $S/adb $S/adb/daemon/include $S/adb/adbconnection/include $S/base/include $S/include \
  $S/liblog/include $S/diagnose_usb/include $S/libasyncio/include $S/libcrypto_utils/include \
  frameworks/native/libs/adbd_auth/include $(BSSL)/usr/include/android $(OUT)/compat
FLAGS = -O1 -w -fPIC -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -DNDEBUG -DADB_HOST=0 -DALLOW_ADBD_ROOT=0 -DALLOW_ADBD_NO_AUTH=1 \
  -DPLATFORM_TOOLS_VERSION='"29.0.6"' -DADB_VERSION='"29.0.6"' -DFAKE_LOG_DEVICE=1 -DLIBLOG_LOG_TAG=1006 \
  -DSNET_EVENT_LOG_TAG=1397638484 $(include:%=-I%)
LIB = $(BSSL)/usr/lib/$(TRIPLET)

$(OUT)/adbd: $(CPP:%=$(OUT)/%.o) $(C:%=$(OUT)/%.o)
	@$(CXX) -s -o $@ $^ -L$(LIB)/android -lcrypto -lpthread -lresolv -lutil \
	  -Wl,--dynamic-linker=/system/lib64/$(LOADER) -Wl,--disable-new-dtags \
	  -Wl,-rpath,/system/lib64 -Wl,-rpath-link,$(LIB)

$(OUT)/compat/sys/capability.h:
	@mkdir -p $(@D)
	@touch $@

$(OUT)/%.o: %.cpp $(OUT)/compat/sys/capability.h
	@mkdir -p $(@D)
	@$(CXX) -c -std=gnu++2a -fpermissive -include atomic -include optional $(FLAGS) -o $@ $<

$(OUT)/%.o: %.c
	@mkdir -p $(@D)
	@$(CC) -c $(FLAGS) -o $@ $<
