#!/usr/bin/python
# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: gpu_info
short_description: Tell which NVIDIA GPUs a host has, and what its driver and container toolkit make of them
version_added: 0.1.0
author: The vicuna.fleet authors
description:
  - Tells in one go what is on the PCI bus, what the driver answers, who installed the driver, whether its parts match,
    and which GPUs containers can be given.
  - Needs neither a driver nor a GPU, and says so where there is none.
  - A sick GPU does not hold it up. Whatever does not answer within O(timeout) is killed and left to itself.
  - C(nvidia-smi) is only asked where the kernel module is loaded, since it would load the module.
options:
  kernel:
    description: Release of the kernel whose headers and modules are looked for. Empty means the running kernel.
    type: str
    default: ""
  timeout:
    description: Seconds that each query of the driver may take.
    type: int
    default: 20
attributes:
  check_mode:
    support: full
    description: Can run in check mode, and returns the same.
  diff_mode:
    support: N/A
    description: Changes nothing.
  idempotent:
    support: N/A
    description: Changes nothing.
"""

EXAMPLES = r"""
- name: Look at the GPUs
  vicuna.fleet.gpu_info:
  register: probe

- name: Show how much memory each of them has left
  ansible.builtin.debug:
    msg: "{{ probe.gpu.gpus | items2dict(key_name='uuid', value_name='memory_free_mib') }}"

- name: Look for the headers and the module of a kernel that will be booted later
  vicuna.fleet.gpu_info:
    kernel: 6.12.107+deb13-amd64
"""

RETURN = r"""
msg:
  description: Whether there are GPUs and whether the driver answers, in words.
  returned: always
  type: str
  sample: 2 NVIDIA GPUs, driver 580.159.04 answers
gpu:
  description: What was found.
  returned: always
  type: dict
  contains:
    present:
      description: Whether an NVIDIA GPU is on the PCI bus.
      type: bool
    devices:
      description: NVIDIA's devices on the PCI bus, by address. No driver is needed for them.
      type: list
      elements: dict
      contains:
        address:
          description: Address on the bus, as in C(/sys/bus/pci/devices).
          type: str
          sample: 0000:00:06.0
        device_id:
          description: PCI device id.
          type: str
          sample: "2335"
        class:
          description: PCI class.
          type: str
          sample: "030200"
        kind:
          description: V(gpu) is a display controller, V(nvswitch) a bridge of class 0680, V(other) sound and the like.
          type: str
          choices: [gpu, nvswitch, other]
        generation:
          description: Generation of a GPU by its device id; empty for what is no GPU and for ids that are not known.
          type: str
          sample: Hopper
        kernel_driver:
          description: The kernel driver that has the device; empty for none.
          type: str
          sample: nvidia
        numa_node:
          description: NUMA node; -1 where the host does not tell.
          type: int
    open_modules:
      description:
        - Whether NVIDIA's open kernel modules are for these GPUs. Blackwell and Grace Hopper require them, GPUs from
          Turing on support them, and one older GPU makes them V(unsupported).
        - Empty where there is no GPU.
      type: str
      choices: [required, supported, unsupported, ""]
    driver:
      description: The driver.
      type: dict
      contains:
        loaded:
          description: Whether the kernel module is loaded.
          type: bool
        version:
          description: Version of the loaded module; empty where none is.
          type: str
          sample: 580.159.04
        flavour:
          description: Which kernel module is loaded; empty where none is.
          type: str
          choices: [open, proprietary, ""]
        library_version:
          description: Version of the library on disk, C(libnvidia-ml) or else C(libcuda); empty where there is none.
          type: str
          sample: 580.159.04
        module_version:
          description: Version of the module on disk for O(kernel); empty where there is none.
          type: str
          sample: 580.159.04
        matches:
          description: Whether the loaded module and the library have the same version; null where one is missing.
          type: bool
        answers:
          description: Whether C(nvidia-smi) lists at least one GPU.
          type: bool
        error:
          description:
            - Why the driver does not answer, in the words of C(nvidia-smi) if it has any.
            - What C(nvidia-smi) complains of beside its answer, if it does.
          type: str
        cuda_version:
          description: Highest CUDA version that the driver supports; empty where it does not answer.
          type: str
          sample: "13.0"
        origin:
          description:
            - Who installed the driver. The maker of its packages tells V(distribution) and V(nvidia), NVIDIA's
              uninstaller or its log V(runfile). V(other) is a third party's package or no package.
          type: str
          choices: [distribution, nvidia, runfile, other, none]
        packages:
          description: Installed packages that belong to the driver, and their versions.
          type: dict
          sample: {nvidia-kernel-dkms: 550.163.01-2}
        held:
          description: Those of them that are held (apt), or locked or excluded (dnf).
          type: list
          elements: str
    gpus:
      description: The GPUs that the driver lists, in its order. A figure that it does not give is null.
      type: list
      elements: dict
      contains:
        index:
          description: Number of the GPU.
          type: int
        name:
          description: Name of the product.
          type: str
          sample: NVIDIA H200
        uuid:
          description: UUID; empty where the GPU does not tell it.
          type: str
        address:
          description: Address on the bus, as in RV(gpu.devices[].address).
          type: str
        memory_total_mib:
          description: Memory in MiB.
          type: int
        memory_free_mib:
          description: Free memory in MiB.
          type: int
        memory_used_mib:
          description: Used memory in MiB. Drivers before 510 count what they reserve for themselves as used.
          type: int
        memory_reserved_mib:
          description: What the driver reserves for itself, in MiB; null with drivers before 510.
          type: int
        compute_capability:
          description: CUDA compute capability, by the device id or else the driver's answer; empty where neither tells.
          type: str
          sample: "9.0"
        mig:
          description: Whether the GPU is in MIG mode.
          type: str
          choices: [enabled, disabled, unsupported]
        mig_devices:
          description: The GPU's MIG devices.
          type: list
          elements: dict
          contains:
            index:
              description: Number of the device on its GPU.
              type: int
            uuid:
              description: UUID of the device.
              type: str
            profile:
              description: Profile of the device.
              type: str
              sample: 3g.40gb
            memory_total_mib:
              description: Memory in MiB.
              type: int
            memory_free_mib:
              description: Free memory in MiB.
              type: int
        ecc:
          description: Whether error correction is on.
          type: str
          choices: [enabled, disabled, unsupported]
        processes:
          description: Processes that hold memory of the GPU.
          type: list
          elements: dict
          contains:
            pid:
              description: Process id on the host.
              type: int
            name:
              description: Name as the driver tells it.
              type: str
            command:
              description: Command line; empty where the process has ended.
              type: str
            container:
              description: Id of the container that it runs in; empty for a process of the host.
              type: str
            memory_mib:
              description: Memory of the GPU in MiB.
              type: int
    unlisted:
      description: Addresses of GPUs on the bus that the driver does not list, but for those that C(vfio-pci) has.
      type: list
      elements: str
    fabric_manager:
      description: NVIDIA's Fabric Manager.
      type: dict
      contains:
        required:
          description:
            - Whether the GPUs need it. They do where the host has an NVSwitch or, with HGX B200 and later, a network
              adapter that manages one (C(SW_MNG) in its VPD).
          type: bool
        version:
          description: Its version; empty where it is not installed.
          type: str
        state:
          description: State of its service.
          type: str
          choices: [active, inactive, failed, absent, unknown]
    persistence:
      description: Whether the driver stays initialised without a client.
      type: dict
      contains:
        daemon:
          description: State of C(nvidia-persistenced)'s service.
          type: str
          choices: [active, inactive, absent, unknown]
        mode:
          description: Whether persistence mode is on for every GPU.
          type: bool
    nouveau:
      description: The free driver that takes the GPUs first.
      type: dict
      contains:
        loaded:
          description: Whether it is loaded.
          type: bool
        blacklisted:
          description: Whether modprobe's configuration or the kernel's command line keeps it out.
          type: bool
    secure_boot:
      description: Whether the firmware only starts what is signed. V(unsupported) is firmware that is not UEFI.
      type: str
      choices: [enabled, disabled, unsupported]
    kernel:
      description: The kernel that was asked for.
      type: dict
      contains:
        release:
          description: Its release.
          type: str
          sample: 6.12.107+deb13-amd64
        headers:
          description: Whether modules can be built for it.
          type: bool
    reboot_required:
      description: Whether the distribution asks for a reboot, or another module than the one on disk is loaded.
      type: bool
    cdi:
      description: What CDI offers to containers.
      type: dict
      contains:
        devices:
          description: Names of NVIDIA's devices.
          type: list
          elements: str
          sample: ["nvidia.com/gpu=0", "nvidia.com/gpu=all"]
        specs:
          description: The specifications that name them.
          type: list
          elements: dict
          contains:
            path:
              description: The file.
              type: str
            driver_version:
              description: Version of the driver whose libraries it mounts; empty where it mounts none.
              type: str
            devices:
              description: Names of its devices.
              type: list
              elements: str
    toolkit:
      description: NVIDIA's container toolkit.
      type: dict
      contains:
        version:
          description: What C(nvidia-ctk) says; empty where there is none.
          type: str
          sample: 1.18.0
        packages:
          description: Installed packages of it, those of nvidia-docker too, and their versions.
          type: dict
        legacy_runtime:
          description: Whether C(/etc/docker/daemon.json) names the runtime C(nvidia); null where that cannot be read.
          type: bool
        config_error:
          description: Why C(/etc/docker/daemon.json) cannot be read, in three parts; empty where it can.
          type: str
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vicuna.fleet.plugins.module_utils._gpu_info import look, message


def main() -> None:
    module = AnsibleModule(
        argument_spec={"kernel": {"type": "str", "default": ""}, "timeout": {"type": "int", "default": 20}},
        supports_check_mode=True,
    )
    gpu = look(module, **module.params)
    module.exit_json(changed=False, msg=message(gpu), gpu=gpu)


if __name__ == "__main__":
    main()
