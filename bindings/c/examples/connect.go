// Says hello to an echo and prints what comes back, by cgo: connect ADDRESS IP. The node waits by itself, in one goroutine.
package main

// #cgo pkg-config: p2pd
// #include <stdlib.h>
// #include <p2pd.h>
import "C"

import (
	"fmt"
	"os"
	"unsafe"
)

func check(status C.p2pd_status, text *C.char) {
	if status < 0 {
		fmt.Fprintf(os.Stderr, "connect: %s: %s\n", C.GoString(C.p2pd_status_text(C.int32_t(status))), C.GoString(text))
		os.Exit(1)
	}
}

func main() {
	address, ip := C.CString(os.Args[1]), C.CString(os.Args[2])
	defer C.free(unsafe.Pointer(address))
	defer C.free(unsafe.Pointer(ip))

	var config *C.p2pd_config
	var node *C.p2pd_node
	check(C.p2pd_config_new(&config), nil)
	check(C.p2pd_config_bind(config, ip), C.p2pd_config_error(config))
	check(C.p2pd_node_open(config, &node), C.p2pd_config_error(config))
	C.p2pd_config_free(config)
	defer C.p2pd_node_free(node)

	var call C.uint64_t
	check(C.p2pd_node_connect(node, address, nil, &call), C.p2pd_node_error(node))
	buffer := make([]byte, 4096)
	for {
		check(C.p2pd_node_turn(node, -1), C.p2pd_node_error(node))
		event := C.p2pd_event{size: C.sizeof_p2pd_event}
		for C.p2pd_node_next_event(node, &event) == C.P2PD_OK {
			switch event.kind {
			case C.P2PD_EVENT_NOT_OPENED:
				check(C.p2pd_status(event.status), event.text)
			case C.P2PD_EVENT_OPENED:
				word := []byte("hello from Go\n")
				var taken C.size_t
				check(C.p2pd_pipe_write(node, event.pipe, unsafe.Pointer(&word[0]), C.size_t(len(word)), &taken), C.p2pd_node_error(node))
				check(C.p2pd_pipe_shutdown(node, event.pipe), C.p2pd_node_error(node))
			case C.P2PD_EVENT_PIPE_READABLE:
				for {
					var got C.size_t
					status := C.p2pd_pipe_read(node, event.pipe, unsafe.Pointer(&buffer[0]), C.size_t(len(buffer)), &got)
					check(status, C.p2pd_node_error(node))
					os.Stdout.Write(buffer[:got])
					if status == C.P2PD_END {
						return
					}
					if status == C.P2PD_AGAIN {
						break
					}
				}
			}
		}
	}
}
