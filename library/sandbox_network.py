#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: sandbox_network
short_description: Converge the networks that sandboxes attach to
version_added: 0.1.0
author: the sandlot developers (@sandlot)
description:
  - Makes, changes and removes networks. Each is a bridge of the host with an IPv4 subnet
    and, when asked for, an IPv6 subnet; the packet filter between networks, sandboxes,
    host and outside is one nftables table of its own.
  - Sandboxes reach the outside and, unless the network is isolated, each other. They reach
    no service of the host, no link-local or metadata address and no other network, unless
    O(networks[].host_access) or O(networks[].egress) says so. Nobody reaches a sandbox
    from outside but by a published port.
  - What sandboxes may reach changes while they run. Connections that are no longer allowed
    stop.
  - One address may have a limited number of connections open, by the host's memory, so
    that no sandbox fills the kernel's table for all.
  - A network named V(default) exists as soon as a sandbox uses it, declared or not.
  - IPv4 forwarding is switched on when it is off, IPv6 forwarding with the first network
    that has an IPv6 subnet. As long as it was this module that did so, forwarded traffic
    of others in that family stays dropped. Switch it on by other means, before the first
    run, on a host that is to be a router too.
  - With IPv6 forwarding, the kernel ignores router advertisements on links whose C(accept_ra)
    is V(1). This module sets them to V(2), so that the host keeps the routes it has from
    them.
  - Where the last network goes, the tables go and forwarding is put back to what it was.
requirements:
  - nft
  - pyroute2 0.7 or later (only when interfaces change)
extends_documentation_fragment: [ansible.builtin.action_common_attributes]
attributes:
  action_group:
    description: Is in an action group, for defaults by C(module_defaults).
    support: full
    membership: [sandlot.sandlot.sandbox]
  async:
    description: Can run in the background, by C(async).
    support: full
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    description: A second run with the same options changes nothing.
    support: full
  platform:
    platforms: linux
options:
  networks:
    description:
      - The networks.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description:
          - Name of the network, up to 63 lower-case letters, digits, C(_), C(.) and C(-).
        type: str
        required: true
      ipv4_subnet:
        description:
          - Range of addresses, for instance V(10.77.4.0/24).
          - Required unless the network is V(default), which has V(10.77.0.0/22).
          - A range that overlaps a route of the host, another network, the address of the
            SSH client or of a resolver is refused.
        type: str
      ipv4_gateway:
        description:
          - Address of the host in this network; the first of the range unless given.
        type: str
      ipv6_subnet:
        description:
          - Range of IPv6 addresses, for instance V(fd77:0:0:4::/64), which sandboxes of
            the network have beside the IPv4 ones. Without it the network has no IPv6,
            link-local
            or other.
          - A range that overlaps a route of the host, another network, the address of the
            SSH client or of a resolver is refused.
        type: str
      ipv6_gateway:
        description:
          - IPv6 address of the host in this network; the first of the range unless given.
        type: str
      nat:
        description:
          - Whether traffic to the outside gets the host's address, in both families.
          - Without it, the networks outside need a route to O(networks[].ipv4_subnet) and
            O(networks[].ipv6_subnet).
          - Defaults to V(true).
        type: bool
      isolated:
        description:
          - Whether sandboxes of this network are kept from talking to each other, also
            by way of ports they publish, link-local addresses and multicast.
          - Defaults to V(false).
        type: bool
      mtu:
        description:
          - Largest packet; V(1500) unless given. IPv6 needs 1280 or more.
          - The bridge and both ends of each link have it; a change reaches running sandboxes.
        type: int
      dns_servers:
        description:
          - Resolvers for sandboxes of this network that name none themselves.
          - The host's own unless given, without those on a loopback address.
        type: list
        elements: str
      internal:
        description:
          - Whether the network has no way out of the host and none in. Sandboxes reach
            each other and the services in O(networks[].host_access); publishing their ports
            is refused.
          - It gives no default route. A sandbox on several networks uses the first that
            is not internal.
          - Defaults to V(false).
        type: bool
      egress:
        description:
          - All that sandboxes of this network may reach beyond it; everything unless given,
            nothing if empty. A sandbox's own C(egress) replaces it.
          - Entries are addresses and ranges (V(203.0.113.0/24), V(2001:db8::/32)), those
            with ports (V(198.51.100.7:443/tcp), V([2001:db8::/32]:80,8000-8010)), host
            names (V(deb.example.org:443)), ports anywhere (V(53/udp)), or V(dns).
          - V(dns) is the sandbox's own name servers. Without a protocol, a port is one
            of TCP.
          - They may also be mappings of C(to), C(ports) and C(protocol).
          - Host names are resolved on the host, by each run and every 5 minutes. An address
            stays for an hour after it was last in an answer. A list with a name in it includes
            V(dns).
          - Link-local and metadata addresses (169.254.0.0/16, fd00:ec2::254 and others)
            have to be listed by address; ranges that contain more and host names do not
            open them.
        type: list
        elements: raw
      host_access:
        description:
          - Services of the host that sandboxes of this network reach, at the network's
            gateway address only, such as V(53/udp) or V(9100/tcp). A sandbox's own
            C(host_access)
            replaces it.
        type: list
        elements: raw
  state:
    description:
      - Whether the listed networks are to exist.
      - With V(absent) only their names matter.
    type: str
    choices: [present, absent]
    default: present
  purge:
    description:
      - Whether to remove every network that is not listed. A network that sandboxes use
        is refused, except that V(default) stays while it is in use.
      - Only used with O(state=present).
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: A network for all, and one whose sandboxes don't see each other
  sandlot.sandlot.sandbox_network:
    networks:
      - name: default
      - name: tenants
        ipv4_subnet: 10.77.4.0/24
        isolated: true

- name: A network with a package mirror and a metrics service of the host, and one without a way out
  sandlot.sandlot.sandbox_network:
    networks:
      - name: builders
        ipv4_subnet: 10.77.5.0/24
        egress:
          - deb.example.org:443
          - to: 198.51.100.0/24
            ports: [80, 8000-8010]
        host_access: ["9100/tcp"]
      - name: backend
        ipv4_subnet: 10.77.6.0/24
        internal: true

- name: IPv6 beside IPv4
  sandlot.sandlot.sandbox_network:
    networks:
      - name: default
        ipv6_subnet: fd77::/64

- name: Remove one network
  sandlot.sandlot.sandbox_network:
    networks:
      - name: tenants
    state: absent

- name: Remove all networks
  sandlot.sandlot.sandbox_network:
    networks: []
    purge: true
"""

RETURN = r"""
actions:
  description: Actions taken, or due in check mode, one sentence each.
  returned: always
  type: list
  elements: str
  sample: ["network default: create bridge sandlot0 with 10.77.0.1/22"]
networks:
  description: The networks of the host by name.
  returned: always
  type: dict
  sample:
    default:
      name: default
      bridge: sandlot0
      ipv4_subnet: 10.77.0.0/22
      ipv4_gateway: 10.77.0.1
      ipv6_subnet: null
      ipv6_gateway: null
      nat: true
      isolated: false
      mtu: null
      dns_servers: []
      internal: false
      egress: null
      host_access: []
relaxed:
  description: Relaxations of each network, by name.
  returned: always
  type: dict
  sample:
    builders: ["host_access: 9100/tcp"]
"""

from ansible.module_utils.basic import AnsibleModule, _load_params

from ..module_utils.sandlot import handover


def main() -> None:
    handover.run("sandbox_network", AnsibleModule, _load_params())


if __name__ == "__main__":
    main()
