//! Private buses, clients and programs for the tests of this workspace.
