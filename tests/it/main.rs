//! The gate as a process and as a library, over real sockets. One binary; a fresh world for each test: ports, directories, servers.
//! Tests wait on events, never on sleeps.

mod floors;
