//! The protocol over a real socket.
