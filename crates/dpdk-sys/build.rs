//! Finds libdpdk, generates bindings for what `wrapper.h` names, and compiles `shim.c`.

use std::env;
use std::fmt::Display;
use std::path::PathBuf;
use std::process::{Command, exit};

/// DPDK's previous long-term release, and Debian 12's.
const OLDEST_DPDK: &str = "22.11";

const HELP: &str = "Shunt builds against an installed DPDK. On Debian and Ubuntu:

    sudo apt-get install libdpdk-dev clang libclang-dev pkg-config

For a DPDK in another place, put the directory of its libdpdk.pc in PKG_CONFIG_PATH.";

const FUNCTIONS: &str = "shunt_.*\
    |rte_(version|strerror|get_tsc_hz)\
    |rte_eal_(init|cleanup|remote_launch|wait_lcore|hotplug_remove)\
    |rte_(dev_probe|get_main_lcore|get_next_lcore|lcore_is_enabled)\
    |rte_(pktmbuf_pool_create|pktmbuf_free_bulk|mempool_avail_count)\
    |rte_eth_dev_(configure|start|stop|close|info_get|count_avail|socket_id|set_mtu|get_mtu)\
    |rte_eth_dev_(adjust_nb_rx_tx_desc|get_name_by_port|get_port_by_name)\
    |rte_eth_(rx_queue_setup|tx_queue_setup|find_next_owned_by|macaddr_get|stats_get)\
    |rte_eth_promiscuous_(enable|disable)\
    |rte_eth_dev_rss_(reta_update|reta_query|hash_conf_get|hash_update)\
    |rte_ring_(create|free)";

const CONSTANTS: &str = "(ETH|MBUF)_.*\
    |RTE_(MAX_LCORE|MAX_ETHPORTS|MBUF_DEFAULT_BUF_SIZE|ETH_NAME_MAX_LEN)\
    |RTE_(ETH_DEV_NO_OWNER|ETH_RETA_GROUP_SIZE)\
    |RING_F_(SP_ENQ|SC_DEQ|EXACT_SZ)\
    |RTE_LOG_(ERR|WARNING|NOTICE|INFO|DEBUG)";

fn main() {
    for file in ["build.rs", "wrapper.h", "shim.c"] {
        println!("cargo:rerun-if-changed={file}");
    }
    // The linker keeps of these libraries what is used (--as-needed); DPDK itself loads the
    // drivers at run time, from the directory that it was built with.
    let dpdk = pkg_config::Config::new()
        .atleast_version(OLDEST_DPDK)
        .probe("libdpdk")
        .unwrap_or_else(|error| fail(format!("no libdpdk {OLDEST_DPDK} or newer"), &error));
    println!("cargo:rustc-env=SHUNT_DPDK_VERSION={}", dpdk.version);
    let flags = c_flags();
    compile_shim(&dpdk, &flags);
    generate_bindings(&dpdk, &flags);
}

/// What pkg-config says beyond include paths: DPDK's inline functions depend on its configuration
/// (`-include rte_config.h`) and on the machine that it was built for (`-march`).
fn c_flags() -> Vec<String> {
    let pkg_config = env::var("PKG_CONFIG");
    let output = Command::new(pkg_config.as_deref().unwrap_or("pkg-config"))
        .args(["--cflags-only-other", "libdpdk"])
        .output()
        .unwrap_or_else(|error| fail("pkg-config does not run", &error));
    String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned).collect()
}

fn compile_shim(dpdk: &pkg_config::Library, flags: &[String]) {
    let mut build = cc::Build::new();
    build.file("shim.c").includes(&dpdk.include_paths).std("gnu11").opt_level(3);
    for flag in flags {
        build.flag(flag);
    }
    // DPDK's own headers have these.
    build.flag("-Wno-unused-parameter");
    build
        .try_compile("shunt_dpdk_shim")
        .unwrap_or_else(|error| fail("a C compiler cannot compile shim.c", &error));
}

fn generate_bindings(dpdk: &pkg_config::Library, flags: &[String]) {
    // bindgen loads libclang when it is first used, and panics where there is none.
    if std::panic::catch_unwind(bindgen::clang_version).is_err() {
        fail("libclang is missing", &"bindgen reads DPDK's headers with it");
    }
    let includes = dpdk.include_paths.iter().map(|path| format!("-I{}", path.display()));
    let bindings = bindgen::builder()
        .header("wrapper.h")
        .clang_args(includes)
        .clang_args(flags)
        .allowlist_function(FUNCTIONS)
        .allowlist_var(CONSTANTS)
        .opaque_type("rte_mbuf|rte_mempool|rte_device")
        .prepend_enum_name(false)
        .derive_default(true)
        .generate_comments(false)
        .layout_tests(false)
        .parse_callbacks(Box::new(bindgen::CargoCallbacks::new()))
        .generate()
        .unwrap_or_else(|error| fail("bindgen cannot read DPDK's headers", &error));
    let file =
        PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("bindings.rs");
    bindings.write_to_file(&file).unwrap_or_else(|error| fail(file.display(), &error));
}

fn fail(what: impl Display, why: &dyn Display) -> ! {
    eprintln!("\nerror: {what}\n\n{HELP}\n\nDetails: {why}");
    exit(1)
}
