# SPDX-License-Identifier: Apache-2.0
# Runs a script of a board output against stand-ins for Vivado's commands, which look at names:
#   tclsh vivado.tcl FACTS SCRIPT
# FACTS is a Tcl file that sets ::ports (of the wrapper, a bus port as port[bit] for each bit), ::pins (ports and
# interfaces of the wrapper) and ::wrapper. Prints the names of the commands that were called. Any other command, a cell, pin
# or port that does not exist, and a file that is not there, are errors.
lassign $argv facts script
source $facts

if {![info complete [read [set channel [open $script]]]]} {
    puts stderr "$script: braces, brackets or quotes are not closed"
    exit 1
}
close $channel

set ::called {}
set ::cells {}
set ::made {}
set ::known {
    add_files apply_bd_automation assign_bd_address connect_bd_intf_net connect_bd_net create_bd_cell create_bd_design
    create_bd_port create_clock create_project current_fileset current_project get_bd_addr_segs get_bd_addr_spaces
    get_bd_cells get_bd_intf_pins get_bd_pins get_bd_ports get_cells get_clocks get_files get_ipdefs get_parts get_pins
    get_ports get_property make_bd_intf_pins_external make_bd_pins_external make_wrapper package_xo save_bd_design
    set_false_path set_input_delay set_max_delay set_multicycle_path set_output_delay set_property update_compile_order
    update_ip_catalog validate_bd_design
    ipx::add_address_block ipx::add_memory_map ipx::add_register ipx::add_register_parameter
    ipx::associate_bus_interfaces ipx::check_integrity ipx::create_xgui_files ipx::current_core ipx::get_address_blocks
    ipx::get_bus_interfaces ipx::get_memory_maps ipx::get_register_parameters ipx::get_registers ipx::package_project ipx::save_core
    ipx::update_checksums
}

# A file that a script makes is not made; one that it asks for may be its own.
rename file file_
proc file {what args} {
    switch -- $what {
        mkdir - delete { lappend ::made {*}$args; return }
        isdirectory { return [expr {[string match */ip_repo/* [lindex $args 0]] || [file_ isdirectory {*}$args]}] }
    }
    return [uplevel 1 [list file_ $what {*}$args]]
}
rename puts puts_
proc puts {args} {}

proc must {condition text} {
    if {!$condition} { error $text }
}
proc last {arguments} { return [lindex $arguments end] }

proc unknown {name args} {
    must [expr {$name in $::known}] "no command of Tcl or of Vivado is called $name"
    lappend ::called $name
    switch -- $name {
        get_ipdefs { return [string map {* xilinx.com:ip: :* ""} [regsub {^\*:(.*):\*$} [last $args] {xilinx.com:ip:\1:1.0}]] }
        create_bd_cell { lappend ::cells [last $args]; return /[last $args] }
        get_bd_cells {
            must [expr {[last $args] in $::cells}] "no cell is called [last $args]"
        }
        get_bd_pins - get_bd_intf_pins {
            lassign [split [last $args] /] cell pin
            must [expr {$cell in $::cells}] "no cell is called $cell"
            must [expr {$cell ne "engine" || $pin in $::pins}] "$::wrapper has no port or interface $pin"
        }
        add_files {
            must [file_ exists [last $args]] "no file [last $args]"
        }
        get_ports {
            set port [regsub {\[\*\]$} [last $args] ""]
            must [expr {$port in $::ports}] "$::wrapper has no port $port"
        }
        package_xo {
            set xml [dict get $args -kernel_xml]
            must [file_ exists $xml] "no file $xml"
        }
        get_property - ipx::get_memory_maps - ipx::get_address_blocks { return "" }
    }
    return [last $args]
}

if {[catch {source $script} message options]} {
    puts_ stderr "$script: $message\n[dict get $options -errorinfo]"
    exit 1
}
puts_ [lsort -unique $::called]
