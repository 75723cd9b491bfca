#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: sandboxes
short_description: 'Converge a host: its images, networks, volumes and sandboxes'
version_added: 0.1.0
author: the sandlot developers (@sandlot)
description:
  - Makes, changes, starts, stops and removes the images, networks, volumes and sandboxes
    of a host in one call.
  - A kind that is not given is left alone, so a task may have sandboxes only.
  - Only what differs is touched. A changed option restarts at most the sandbox it belongs
    to; an option that is withdrawn goes back to its default.
  - Every check is made before the first change. Removals of images, networks and volumes
    come last, and only when all sandboxes have converged.
requirements:
  - Linux 5.12 or later, nft
  - pyroute2 (only when interfaces change)
extends_documentation_fragment: [ansible.builtin.action_common_attributes]
attributes:
  action_group:
    description: Is in an action group, for defaults by C(module_defaults).
    support: full
    membership: [sandlot.sandlot.sandbox]
  async:
    description: Can run in the background, by C(async).
    support: partial
    details: Not with O(host), and not while archives of O(images[].src) have to be copied.
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    description: A second run with the same options changes nothing.
    support: partial
    details: With O(restart) or O(recreate), each run restarts or recreates sandboxes.
  platform:
    platforms: linux
options:
  images:
    description:
      - The images, each a mapping of the options of M(sandlot.sandlot.sandbox_rootfs).
      - They are made before the sandboxes are looked at, while other runs may go on.
    type: list
    elements: dict
    suboptions:
      name:
        description:
          - Name that sandboxes refer to.
          - Up to 80 ASCII letters, digits and C(_.:@/+-), a letter or digit first.
        type: str
        required: true
      state:
        description:
          - Whether the image is on the host.
          - An image that a sandbox uses can't be removed.
          - Defaults to V(present).
        type: str
        choices: [present, absent]
      source:
        description:
          - The way to make the image. Required when O(images[].state=present).
          - V(busybox) is the host's own busybox with links for its applets.
          - V(tarball) is an archive of a root file system.
          - V(debootstrap) is a Debian or Ubuntu system made of packages by mmdebstrap or
            debootstrap.
          - V(oci) is an image from a registry, an OCI layout or a docker save archive.
          - V(host) is named programs of the host and the libraries they need.
          - V(host_overlay) is the host's own root, read-only and without its secrets.
          - V(directory) is an unpacked root file system on the host, never written to.
          - 'V(tmpfs) is an ephemeral root: an image below a writable layer in memory.'
        type: str
        choices: [busybox, tarball, debootstrap, oci, host, host_overlay, directory, tmpfs]
      setup:
        description:
          - Steps run once, in order, in a throw-away sandbox of the image, and kept as
            a layer.
          - A string is a script for the image's C(sh).
          - A mapping with C(command) (a list) runs that, with C(env) and as C(user).
          - A mapping with C(packages) (a list) installs them with C(apt-get) or C(apk).
          - A mapping with C(dest) and C(content) writes a file, with C(mode) and a numeric
            C(owner).
          - Steps are stored on the host. Results hide the values of C(env) and show C(content),
            which is no place for secrets.
          - For all sources but O(images[].source=tmpfs).
        type: list
        elements: raw
      setup_network:
        description:
          - Network of the throw-away sandbox, V(none) for no network.
          - For all sources but O(images[].source=tmpfs).
          - Defaults to V(default).
        type: str
      setup_timeout:
        description:
          - Most seconds one step may take.
          - For all sources but O(images[].source=tmpfs).
          - Defaults to V(3600).
        type: int
      path:
        description:
          - Archive on the managed host, plain or compressed with gzip, xz, bzip2 or zstd.
            This, O(images[].url) or O(images[].src) is required.
          - For O(images[].source=tarball).
          - Directory on the managed host. When something in it changes, the sandboxes that
            follow the image are restarted by the next run.
          - For O(images[].source=directory).
        type: path
      url:
        description:
          - Where the managed host fetches the archive, http or https. A transfer that breaks
            off is resumed, by the next run as well.
          - Proxies are taken from the environment of the module.
          - For O(images[].source=tarball).
        type: str
      src:
        description:
          - Archive on the controller, found like files of M(ansible.builtin.copy). It is
            copied to hosts that don't have the image yet.
          - For O(images[].source=tarball).
        type: str
      checksum:
        description:
          - Checksum of the archive, as V(sha256:HEX) or V(sha512:HEX), or the URL or path
            of a file that lists it (C(SHA256SUMS)). Required.
          - It also tells whether the image has changed. A file of checksums that is given
            by its path is on the managed host, and read by each run.
          - For O(images[].source=tarball).
        type: str
      pull:
        description:
          - When to ask for a file of checksums at a URL.
          - V(missing) asks when there is no image yet, or its options have changed.
          - V(always) asks in each run, and replaces the image when the file says so.
          - For O(images[].source=tarball).
          - 'When to ask the registry: V(missing) for an image that is not on the host yet,
            V(always) to follow a tag, V(never) not at all. Without it, V(missing).'
          - For O(images[].source=oci).
          - Defaults to V(missing).
        type: str
        choices: [missing, always, never]
      max_size:
        description:
          - Most bytes the image may unpack to, such as V(2g).
          - For O(images[].source=tarball) and O(images[].source=debootstrap) and
            O(images[].source=oci).
          - Defaults to V(8g).
        type: str
      max_files:
        description:
          - Most members it may have.
          - For O(images[].source=tarball) and O(images[].source=debootstrap) and
            O(images[].source=oci).
          - Defaults to V(500000).
        type: int
      suite:
        description:
          - Release to install, such as V(bookworm). Required.
          - For O(images[].source=debootstrap).
        type: str
      mirror:
        description:
          - Mirror the packages come from, http or https.
          - Without it, the default of the tool, which for Debian includes security updates.
          - For O(images[].source=debootstrap).
        type: str
      variant:
        description:
          - How much is installed. V(minbase) is what is required and apt, V(buildd) has
            compilers, V(important) is a small server.
          - V(essential) and V(apt) are smaller and need mmdebstrap.
          - For O(images[].source=debootstrap).
          - Defaults to V(minbase).
        type: str
        choices: [minbase, buildd, important, essential, apt]
      components:
        description:
          - Parts of the archive to use.
          - For O(images[].source=debootstrap).
          - Defaults to V(['main']).
        type: list
        elements: str
      packages:
        description:
          - More packages to install.
          - For O(images[].source=debootstrap).
          - Debian packages of the host, all of whose programs are taken.
          - For O(images[].source=host).
        type: list
        elements: str
      keyring:
        description:
          - File on the managed host with the keys that packages are signed with.
          - Without it, the one that the tool knows for the suite.
          - For O(images[].source=debootstrap).
        type: path
      check_valid_until:
        description:
          - Whether a mirror whose index has expired is refused, by mmdebstrap and by apt
            in the image; debootstrap never does. V(false) is for frozen mirrors.
          - For O(images[].source=debootstrap).
          - Defaults to V(true).
        type: bool
      revision:
        description:
          - Any text. Another text makes the image again, from the mirror's packages by
            then.
          - 'Nothing else does: an archive that changed is no change of these options.'
          - For O(images[].source=debootstrap).
        type: str
      reference:
        description:
          - An image, as V(REGISTRY/NAME:TAG), optionally with V(docker://) before it and
            V(@sha256:DIGEST) at its end.
          - Or what lies on the managed host, V(oci:/DIRECTORY:TAG), V(oci-archive:/FILE:TAG),
            V(docker-archive:/FILE:NAME:TAG); what follows the path can be left out where
            there is one image. Required.
          - For O(images[].source=oci).
        type: str
      platform:
        description:
          - Platform to choose where an image has several, such as V(linux/arm64). Without
            it, that of the host.
          - For O(images[].source=oci).
        type: str
      tls_verify:
        description:
          - Whether the registry must have a certificate that can be verified. V(false)
            allows plain HTTP, too. Without it, what C(/etc/containers/registries.conf)
            says, else V(true).
          - For O(images[].source=oci).
        type: bool
      ca_path:
        description:
          - PEM file on the managed host with the CA of the registry's certificate.
          - For O(images[].source=oci).
        type: path
      username:
        description:
          - User of the registry, with O(images[].password).
          - For O(images[].source=oci).
        type: str
      password:
        description:
          - The user's password. It is neither stored nor written to any file of the host.
          - For O(images[].source=oci).
        type: str
      auth_file:
        description:
          - File on the managed host with credentials, as C(podman login) and C(docker login)
            make it. Without it and a password, those that root has.
          - For O(images[].source=oci).
        type: path
      programs:
        description:
          - Programs of the host, by name or absolute path. The libraries they need come
            along, and so does the interpreter of a script.
          - For O(images[].source=host).
        type: list
        elements: str
      files:
        description:
          - Files and directories of the host that are copied as well, such as data of programs.
          - For O(images[].source=host).
        type: list
        elements: str
      show:
        description:
          - Paths of the host that are shown beside C(/usr), C(/etc), C(/bin), C(/sbin)
            and C(/lib*), with all that is in them.
          - For O(images[].source=host_overlay).
        type: list
        elements: str
      hide:
        description:
          - 'Paths of the host that are hidden beside the usual: what is not shown, what
            only some users of the host can read, and well-known secrets.'
          - For O(images[].source=host_overlay).
        type: list
        elements: str
      size:
        description:
          - Most bytes of the layer in memory. They count as the sandbox's memory; what
            was written is gone when the sandbox stops.
          - For O(images[].source=tmpfs).
          - Defaults to V(67108864).
        type: str
      mode:
        description:
          - Mode of the root directory, octal.
          - For O(images[].source=tmpfs).
          - Defaults to V(0755).
        type: str
      base:
        description:
          - Image below the layer, of this list or of the host. Without it, what source
            V(busybox) makes.
          - For O(images[].source=tmpfs).
        type: str
  networks:
    description:
      - The networks, each a mapping of the options of M(sandlot.sandlot.sandbox_network).
    type: list
    elements: dict
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
  volumes:
    description:
      - The volumes, each a mapping of the options of M(sandlot.sandlot.sandbox_volume).
      - One that a sandbox names and that is not listed is made as well.
    type: list
    elements: dict
    suboptions:
      name:
        description:
          - Name of the volume, which C(volumes) of sandboxes refer to.
          - Up to 128 ASCII letters, digits, C(_), C(.) and C(-), a letter or digit first.
        type: str
        required: true
      state:
        description:
          - Whether the volume is on the host.
          - A volume that a sandbox uses can't be removed; one that holds data only with
            O(volumes[].force).
          - Defaults to V(present).
        type: str
        choices: [present, absent]
      size:
        description:
          - The most that the volume may hold, such as V(10g); no limit unless given.
          - 'The kernel enforces it: by a project quota where the file system has one, else
            by a file system of that size in a sparse file. Where neither works it is refused.'
        type: str
      labels:
        description:
          - Labels, for the use of others.
        type: dict
      force:
        description:
          - With O(volumes[].state=absent), whether to remove the volume with the data that
            it holds.
          - Defaults to V(false).
        type: bool
  sandboxes:
    description:
      - The sandboxes, each a mapping of the options of M(sandlot.sandlot.sandbox).
    type: list
    elements: dict
    suboptions:
      name:
        description:
          - Name of the sandbox, unique on its host.
          - 1 to 63 ASCII letters, digits, C(_), C(.) and C(-); a letter or digit first.
          - Names that hosts files and inventories use, such as V(localhost) and V(all),
            are refused.
        type: str
        required: true
      image:
        description:
          - Name of the image that is the sandbox's root filesystem. Required unless
            O(sandboxes[].state=absent).
          - 'V(NAME) follows the image: when it is updated, the sandbox moves to the new
            one.'
          - 'V(NAME@sha256:DIGEST) pins it: the sandbox stays on what has that digest, or
            the start of one.'
          - O(sandboxes[].on_image_change) says whether the sandbox keeps its writable layer
            above another image.
        type: str
      on_image_change:
        description:
          - Whether the writable layer survives when the image is updated, or when
            O(sandboxes[].image)
            names another one.
          - V(keep) restarts the sandbox on the new image, with its layer. Files of the
            layer hide those of the image; the module names the ones that hide a change.
          - V(fresh) rebuilds it, with a fresh layer; the old one is set aside as a snapshot.
          - Either way the sandbox goes back to the old image unless it starts and becomes
            healthy.
          - Without it, V(fresh) for images of source C(oci), whose data belongs in volumes,
            and V(keep) for others. Between two images, V(fresh) if either is of source
            C(oci).
          - Sandboxes that an earlier version made above C(oci) images keep their layer
            when the image is updated, until they get a fresh one.
        type: str
        choices: [keep, fresh]
      state:
        description:
          - V(present) makes the sandbox and leaves it running or stopped as it is.
          - V(started) also starts it, V(stopped) also stops it.
          - V(healthy) starts it and waits until its O(sandboxes[].healthcheck) succeeds;
            without one, until it has run for a second.
          - V(absent) removes it with its writable layer.
          - Defaults to V(started).
        type: str
        choices: [present, started, stopped, healthy, absent]
      restart:
        description:
          - Whether to restart the sandbox even if nothing about it changed.
          - Defaults to V(false).
        type: bool
      recreate:
        description:
          - Whether to make the sandbox again even if nothing about it changed.
          - Its writable layer is set aside as a snapshot; name, addresses and ids stay.
          - The new one is prepared while the old one runs. Unless it starts and becomes
            healthy, the old one is started again, and the module fails.
          - Defaults to V(false).
        type: bool
      allow_changes:
        description:
          - The greatest change that a run may make to the sandbox. With a greater one,
            the module fails before it does anything, in check mode as well.
          - With V(live), the workload runs on. V(restart) also allows to stop it and to
            start it again, V(rebuild) also to remove it. All allow a new sandbox, and the
            start of one that is down.
          - 'As a default of a host, it also holds for sandboxes that the run changes without
            being asked to: those that a purge removes, and those that share the network
            of another one.'
          - Defaults to V(rebuild).
        type: str
        choices: [live, restart, rebuild]
      comparisons:
        description:
          - How options are compared with those that the sandbox has, by their names; V(*)
            is for all that are not named.
          - V(strict) is the default. With V(ignore), the sandbox keeps what it has.
          - With V(allow_more_present), a list or mapping, and a mapping in a list, may
            have more than was asked for. One that lacks something becomes what was asked
            for; of O(sandboxes[].networks), others stay connected.
          - 'V(image: ignore) also ignores an update of the image.'
        type: dict
      command:
        description:
          - Command to run, appended to O(sandboxes[].entrypoint). Without both, those of
            the image are used; a sandbox needs one of them.
          - A list of arguments, or a string that is split into words as a shell does; no
            shell runs and nothing is expanded.
        type: raw
      entrypoint:
        description:
          - Program and arguments put before O(sandboxes[].command); a list or a string,
            as there.
          - Without it, that of the image is used. With it, the image's command is not.
        type: raw
      env:
        description:
          - Environment variables, beside those of the image. Quote values that YAML would
            read as booleans or numbers; others than text are refused.
          - Results, diffs and messages hide their values; a digest shows that one has changed.
          - 'A value written as C({value: TEXT, secret: true}) is kept as those of
            O(sandboxes[].secrets)
            are, and is in no record of the host.'
        type: dict
      working_dir:
        description:
          - Directory the workload starts in, an absolute path in the sandbox.
          - Without it, that of the image, else V(/).
        type: str
      user:
        description:
          - User of the workload in the sandbox, as V(USER) or V(USER:GROUP).
          - Each is a name from the image or an id from 0 to 65535; quote ids with a colon.
          - A group that is given is the only one; without it, the user has all of its groups.
          - Without this option, the user of the image, else V(0).
        type: str
      hostname:
        description:
          - Host name inside the sandbox.
          - Defaults to O(sandboxes[].name), with V(-) for each character a host name can't
            have.
        type: str
      tmpfs:
        description:
          - Filesystems in memory, each as V(PATH) or V(PATH:OPTIONS).
          - Options are C(size=), C(nr_inodes=), C(mode=), C(uid=), C(gid=), C(exec) and
            C(tmpcopyup), separated by commas. They are mounted nosuid, nodev and, without
            C(exec), noexec.
          - Links of the image on the way are followed inside the sandbox.
          - They start empty, with C(tmpcopyup) with the files that the image has there.
            Without an entry for it, C(/tmp) is V(/tmp:exec,tmpcopyup), also on a read-only
            root.
        type: list
        elements: str
      read_only:
        description:
          - Whether the root filesystem is mounted read-only.
          - C(/tmp), C(/run) and C(/var/tmp) are then file systems in memory, with the files
            that the image has there, unless O(sandboxes[].tmpfs), O(sandboxes[].volumes)
            or O(sandboxes[].mounts) has an entry for them.
          - Defaults to V(false).
        type: bool
      volumes:
        description:
          - Volumes and paths of the host, each as V(SOURCE:TARGET) or V(SOURCE:TARGET:WORDS).
          - A source with a leading slash is a path of the host, which is listed in C(relaxed);
            another one is the name of a volume, which is made if it does not exist.
          - Words, separated by commas, are C(ro), C(rw), C(noexec), for volumes C(nocopy),
            for paths of the host C(idmap) and those of O(sandboxes[].mounts[].propagation).
        type: list
        elements: str
      mounts:
        description:
          - Mounts beside those of O(sandboxes[].volumes), in the notation of docker_container.
          - All are mounted nosuid and nodev. Links of the image on the way to a target
            are followed inside the sandbox.
        type: list
        elements: dict
        suboptions:
          type:
            description:
              - V(volume), a path of the host (V(bind)), or a file system in memory (V(tmpfs)).
              - Defaults to V(volume).
            type: str
            choices: [volume, bind, tmpfs]
          target:
            description:
              - Absolute path in the sandbox.
            type: str
            required: true
          source:
            description:
              - Name of the volume, or path of the host.
            type: str
          read_only:
            description:
              - Whether nobody in the sandbox may write there.
            type: bool
          no_exec:
            description:
              - Whether no program may be started from there.
            type: bool
          no_copy:
            description:
              - Whether an empty volume stays empty, and does not take the files of the
                image there.
            type: bool
          subpath:
            description:
              - Directory in the volume that is mounted.
            type: str
          propagation:
            description:
              - Whether mounts that the host makes below the source later appear in the
                sandbox, with the flags that they have on the host.
              - With V(rslave) and V(slave) they do; with V(rprivate), the default, and
                V(private) they don't.
            type: str
            choices: [private, rprivate, slave, rslave]
          idmap:
            description:
              - 'Whether a bind mount has the ids inside, as a volume: root of the sandbox
                is then root (0) in the files of the host.'
            type: bool
          tmpfs_size:
            description:
              - Size of the tmpfs, as V(64m).
            type: str
          tmpfs_mode:
            description:
              - Mode of the tmpfs in octal, as V('1777').
            type: str
          tmpfs_options:
            description:
              - Further options of the tmpfs, as in O(sandboxes[].tmpfs).
            type: list
            elements: str
      env_file:
        description:
          - Files of the controller with lines C(NAME=VALUE), in the notation of Compose
            without interpolation; one path, or a list.
          - Their variables are secret ones of O(sandboxes[].env). Later files win over
            earlier ones, and O(sandboxes[].env) wins over them.
        type: list
        elements: str
      files:
        description:
          - Files that the sandbox gets, read-only, over those of its image and layer. They
            are no part of its layer.
          - Each has one of O(sandboxes[].files[].content), O(sandboxes[].files[].src) and
            O(sandboxes[].files[].template_src), of up to 1 MiB.
          - A change reaches a running sandbox at once, as a whole;
            O(sandboxes[].files[].on_change)
            tells what follows. A directory, or a place in a volume or bind mount, can't
            be a target.
        type: list
        elements: dict
        suboptions:
          target:
            description:
              - Absolute path of the file in the sandbox.
            type: str
            required: true
          content:
            description:
              - The content, as text, which Ansible templates as any variable.
            type: str
          src:
            description:
              - A file of the controller with the content, found as by M(ansible.builtin.copy).
                It is taken as it is, binary too.
            type: str
          template_src:
            description:
              - A template of the controller that makes the content, found and rendered
                as by M(ansible.builtin.template).
            type: str
          encoding:
            description:
              - Whether C(content) is text, or text in base64 of any bytes.
              - Defaults to V(utf-8).
            type: str
            choices: [utf-8, base64]
          owner:
            description:
              - 'User that owns it: a name from the sandbox, or an id from 0 to 65535 in
                quotes.'
              - Defaults to V(0).
            type: str
          group:
            description:
              - Group that owns it; without it, the group of the owner, else V(0).
            type: str
          mode:
            description:
              - Permissions in octal, in quotes.
              - Defaults to V(0644).
            type: str
          on_change:
            description:
              - A running sandbox sees a change without a restart. With V(reload), its workload
                gets a signal then; with V(none), nothing more happens.
              - With V(restart), the sandbox is restarted, and sees the change then.
              - Defaults to V(none).
            type: str
            choices: [none, reload, restart]
          reload_signal:
            description:
              - Signal of V(reload), by name or number; without it, V(SIGHUP).
            type: str
      secrets:
        description:
          - Secrets that the sandbox gets as files in memory, read-only. The host keeps
            them readable by root only, and encrypted where it has systemd-creds.
          - Each has one of O(sandboxes[].secrets[].value), O(sandboxes[].secrets[].src)
            and O(sandboxes[].secrets[].template_src), of up to 512000 bytes.
          - No record, result, diff or message has a value; a digest shows that one has
            changed. Changes reach a running sandbox as those of O(sandboxes[].files) do.
        type: list
        elements: dict
        suboptions:
          name:
            description:
              - Name of the secret.
            type: str
            required: true
          value:
            description:
              - The content, as text, which Ansible templates as any variable.
            type: str
          src:
            description:
              - A file of the controller with the content, found as by M(ansible.builtin.copy).
                It is taken as it is, binary too.
            type: str
          template_src:
            description:
              - A template of the controller that makes the content, found and rendered
                as by M(ansible.builtin.template).
            type: str
          encoding:
            description:
              - Whether C(value) is text, or text in base64 of any bytes.
              - Defaults to V(utf-8).
            type: str
            choices: [utf-8, base64]
          owner:
            description:
              - 'User that owns it: a name from the sandbox, or an id from 0 to 65535 in
                quotes.'
              - Defaults to V(0).
            type: str
          group:
            description:
              - Group that owns it; without it, the group of the owner, else V(0).
            type: str
          mode:
            description:
              - Permissions in octal, in quotes.
              - Defaults to V(0444).
            type: str
          on_change:
            description:
              - A running sandbox sees a change without a restart. With V(reload), its workload
                gets a signal then; with V(none), nothing more happens.
              - With V(restart), the sandbox is restarted, and sees the change then.
              - Defaults to V(none).
            type: str
            choices: [none, reload, restart]
          reload_signal:
            description:
              - Signal of V(reload), by name or number; without it, V(SIGHUP).
            type: str
          target:
            description:
              - Absolute path of its file in the sandbox; without it, C(/run/secrets/NAME).
            type: str
      network_mode:
        description:
          - Network namespace of the sandbox. V(bridge) is its own, attached to
            O(sandboxes[].networks).
            V(none) is its own with a loopback interface only.
          - V(container:NAME) shares that of another sandbox, which has to have its own.
          - V(ns:PATH) joins the network namespace pinned at a path, such as one of C(ip
            netns add). V(host) joins the host's and needs O(sandboxes[].allow_host_network).
          - With the last three, nothing of sandlot's packet filter is between the sandbox
            and who else is in that namespace.
          - Defaults to V(bridge).
        type: str
      allow_host_network:
        description:
          - Whether O(sandboxes[].network_mode) may put the sandbox into the host's network
            namespace, where it reaches every service that listens on the host's loopback
            interface or on an abstract unix socket.
          - Defaults to V(false).
        type: bool
      networks:
        description:
          - Networks the sandbox is on, one interface each. The first one leads to the outside
            and has the published ports.
          - An empty list leaves it with a loopback interface only. Changes reach a running
            sandbox without a restart; an interface keeps its name as long as its network
            stays.
          - Defaults to one interface on the network V(default).
        type: list
        elements: dict
        suboptions:
          name:
            description:
              - Name of a network of the host.
            type: str
            required: true
          ipv4_address:
            description:
              - The sandbox's IPv4 address on this network, without a prefix.
              - Without it, a free address is chosen once and kept.
            type: str
          ipv6_address:
            description:
              - The sandbox's IPv6 address on this network, without a prefix.
              - Without it, a free address is chosen once and kept if the network has IPv6.
            type: str
          mac_address:
            description:
              - The interface's unicast MAC address. Without it, one is made from the sandbox's
                name.
            type: str
          aliases:
            description:
              - More names by which sandboxes on this network find this one.
              - No other sandbox on the network may have them as name or alias.
            type: list
            elements: str
      published_ports:
        description:
          - Ports of the host that lead into the sandbox, each as
            V([HOST_IP:]HOST_PORT:PORT[/tcp|/udp]),
            with an IPv6 address in brackets.
          - Without HOST_IP, on all IPv4 addresses of the host and, when the sandbox has
            an IPv6 address, on all its IPv6 addresses but V(::1). V(0.0.0.0) and V([::])
            stand for those of one family.
          - 'Two ranges of one length publish port by port, up to 1024 ports in all. Quote
            them: YAML reads V(53:53) as a number.'
        type: list
        elements: str
      etc_hosts:
        description:
          - Lines added to C(/etc/hosts), as host name to IP address.
          - A name of a neighbour, or of the sandbox itself, then has this address only.
        type: dict
      dns_servers:
        description:
          - Name servers, at most 3.
          - Without them, those of the first network that has any, else those of the host
            that can be reached from a sandbox.
          - Servers of a family that the sandbox has no address of are left out.
        type: list
        elements: str
      egress:
        description:
          - All that the sandbox may reach beyond its own networks, instead of what its
            networks say; an empty list is nothing.
          - Entries are those of C(egress) of a network, such as V(203.0.113.0/24),
            V(198.51.100.7:443/tcp),
            V(deb.example.org:443), V(53/udp) or V(dns).
        type: list
        elements: raw
      host_access:
        description:
          - Services of the host that the sandbox reaches at the gateway addresses of its
            networks, such as V(9100/tcp), instead of what its networks say.
        type: list
        elements: raw
      memory:
        description:
          - Memory limit, at least V(6m); a number of bytes, or with a unit of V(b), V(k),
            V(m), V(g) or V(t). O(sandboxes[].memory_swap) bounds swap.
          - It includes the buffers of network sockets; version 1 of cgroups counts those
            apart, up to the same limit.
        type: str
      memory_reservation:
        description:
          - Memory that the sandbox keeps while the host is short of it, at least V(6m),
            in the notation of O(sandboxes[].memory) and not above that.
          - The kernel takes memory first from what lies above its owner's reservation.
        type: str
      memory_swap:
        description:
          - Limit of memory and swap together, not below O(sandboxes[].memory), which it
            needs.
          - 'Without it, twice O(sandboxes[].memory): the sandbox swaps as much as it has
            of memory. The same as O(sandboxes[].memory) is no swap, V(-1) leaves swap without
            a limit.'
        type: str
      cpus:
        description:
          - CPU time limit, in CPUs; V(0.5) is half of one.
        type: float
      cpu_shares:
        description:
          - Weight when CPUs are contended, from 2 to 262144; 1024 is that of other processes.
        type: int
      cpuset_cpus:
        description:
          - CPUs the sandbox may run on, such as V(0-3) or V(0,2).
        type: str
      pids_limit:
        description:
          - How many processes and threads may exist in the sandbox, its init included.
          - V(-1) leaves it without a limit.
          - Defaults to V(2048).
        type: int
      ulimits:
        description:
          - Resource limits of each process, as V(NAME:SOFT:HARD) or V(NAME:BOTH).
          - 'V(-1) is unlimited. Names are those of setrlimit(2), in lower case: V(nofile).'
        type: list
        elements: str
      lxcfs:
        description:
          - Whether C(/proc/meminfo), C(/proc/cpuinfo) and others that show the host show
            the sandbox's limits, for C(free), C(top) and C(uptime).
          - The host needs lxcfs, mounted at C(/var/lib/lxcfs); a program of the host's
            root answers the sandbox's reads then.
          - Defaults to V(false).
        type: bool
      disk_size:
        description:
          - The most that the sandbox may write into its root, at least V(16m), in the notation
            of O(sandboxes[].memory).
          - 'The kernel enforces it: by a project quota where the file system has one, else
            by a file system of that size in a sparse file. Where neither works it is refused,
            as it is for roots in memory.'
          - A change by which the layer has to move restarts the sandbox.
        type: str
      ingress_rate:
        description:
          - Bits a second that each of the sandbox's interfaces takes in, from V(8kbit)
            to V(34gbit); a number, or with a unit of V(k), V(m) or V(g), as in V(10mbit).
        type: str
      egress_rate:
        description:
          - Bits a second that each of the sandbox's interfaces sends, in the notation of
            O(sandboxes[].ingress_rate). It is kept outside the sandbox, out of its reach.
        type: str
      security_profile:
        description:
          - Capabilities that the root user of the sandbox has in the sandbox's own user
            namespace. V(strict) has none.
          - 'V(daemon) has what servers need that start as root: CHOWN, DAC_OVERRIDE, FOWNER,
            FSETID, KILL, SETGID, SETUID, SETPCAP, NET_BIND_SERVICE, SYS_CHROOT, SETFCAP.'
          - By default V(daemon) for images of source V(oci), V(strict) for all others.
        type: str
        choices: [strict, daemon]
      capabilities:
        description:
          - Capabilities granted in the sandbox's own user namespace, to any user, beyond
            those of O(sandboxes[].security_profile).
          - With or without C(CAP_), in any case. V(ALL) is refused.
        type: list
        elements: str
      no_new_privileges:
        description:
          - 'Whether programs are kept from gaining rights when they start: set-user-id
            bits and file capabilities then have no effect.'
          - V(false) lets C(sudo), C(su) and such work inside, within the capabilities of
            O(sandboxes[].security_profile) and O(sandboxes[].capabilities), and is listed
            in C(relaxed).
          - Defaults to V(true).
        type: bool
      seccomp_profile:
        description:
          - System calls the sandbox may make; V(unconfined) leaves out the filter.
          - Defaults to V(default).
        type: str
        choices: [default, unconfined]
      seccomp_architectures:
        description:
          - More architectures of programs that the sandbox may run. V(x86) stands for 32-bit
            programs on x86_64. Without this, the filter refuses each of their calls, and
            they die of C(SIGSEGV).
          - 'The same policy holds for them, except for families of sockets: 32-bit programs
            name them in memory, and a filter sees registers only.'
        type: list
        elements: str
        choices: [x86]
      devices:
        description:
          - Devices of the host, as C(HOST_PATH:PATH_INSIDE:MODE). C(PATH_INSIDE) is below
            C(/dev), and C(HOST_PATH) by default; C(MODE) is of C(r), C(w) and C(m), by
            default all.
          - The node inside has the owner, group and permissions of the host's, by number,
            as far as the mode allows. The cgroup of the sandbox then denies all other devices.
          - Each is listed in C(relaxed). Refused are block devices that the host uses,
            and devices that are the host's own, as C(/dev/mem).
        type: list
        elements: str
      sysctls:
        description:
          - Kernel parameters of the sandbox's namespaces.
          - Only C(net.*), C(kernel.shm*), C(kernel.msg*), C(kernel.sem) and C(fs.mqueue.*).
        type: dict
      time_offset:
        description:
          - Gives the sandbox a time namespace, with clocks ahead of the host's by these
            seconds.
          - Fractions count to the microsecond. Negative seconds turn a clock back, never
            below zero.
        type: dict
        suboptions:
          monotonic:
            description:
              - Seconds added to C(CLOCK_MONOTONIC).
              - Defaults to V(0).
            type: float
          boottime:
            description:
              - Seconds added to C(CLOCK_BOOTTIME).
              - Defaults to V(0).
            type: float
      restart_policy:
        description:
          - When the workload is started again after it ended.
          - Defaults to V(unless-stopped).
        type: str
        choices: ['no', on-failure, always, unless-stopped]
      restart_retries:
        description:
          - How often O(sandboxes[].restart_policy=on-failure) tries again; V(0) is without
            end.
          - Defaults to V(0).
        type: int
      stop_signal:
        description:
          - Signal that asks the workload to end, by name or number.
          - Without it, that of the image, else V(SIGTERM).
        type: str
      stop_timeout:
        description:
          - Seconds between O(sandboxes[].stop_signal) and C(SIGKILL), up to a day.
          - Defaults to V(10).
        type: int
      log_max_size:
        description:
          - How much of the workload's output is kept, at least V(64k).
          - Defaults to V(10m).
        type: str
      labels:
        description:
          - Names and values of your own, kept with the sandbox beside those of its image.
        type: dict
      healthcheck:
        description:
          - How init finds out whether the workload does its work. It needs exactly one
            of O(sandboxes[].healthcheck.test), O(sandboxes[].healthcheck.tcp) and
            O(sandboxes[].healthcheck.http).
          - 'Until it succeeds for the first time it runs more often: after 0.1 seconds,
            then with doubling pauses up to the interval.'
          - Without it, that of the image, if it brings one.
        type: dict
        suboptions:
          test:
            description:
              - Command that succeeds when the workload is healthy, run as the workload
                is.
              - A string for C(/bin/sh), or a list that begins with V(CMD) or V(CMD-SHELL).
                V(["NONE"]) is no healthcheck, also when the image brings one.
            type: raw
          tcp:
            description:
              - Port that accepts connections when the workload is healthy, as V(PORT) or
                V(ADDRESS:PORT) inside the sandbox, where V(localhost) is the only name.
            type: raw
          http:
            description:
              - URL inside the sandbox that is answered with a status from 200 to 399 when
                the workload is healthy, such as V(http://localhost:8080/health).
              - No name but V(localhost) is looked up, no redirection followed.
            type: str
          interval:
            description:
              - Time from the end of one check to the next one, such as V(1m30s).
              - Defaults to V(30s).
            type: str
          timeout:
            description:
              - Time after which a check has failed; a command is then killed.
              - Defaults to V(30s).
            type: str
          retries:
            description:
              - How many checks in a row have to fail until the sandbox is unhealthy.
              - Defaults to V(3).
            type: int
          start_period:
            description:
              - Time after a start in which failed checks do not count.
              - Defaults to V(0s).
            type: str
          action:
            description:
              - Action when the sandbox becomes unhealthy.
              - V(restart) ends the workload as a stop does and starts it again after a
                back-off, whatever O(sandboxes[].restart_policy) is.
              - Defaults to V(none).
            type: str
            choices: [none, restart]
      healthy_wait_timeout:
        description:
          - Seconds for which O(sandboxes[].state=healthy) waits, up to a day.
          - 'Without it, as long as the healthcheck may take to find the sandbox unhealthy:
            its start period and, for each retry, interval and timeout.'
          - To that come 5 seconds; it is at least 10 seconds and at most an hour.
        type: float
      fail_on_crash:
        description:
          - Seconds for which a run watches the workload after it started it, up to a day.
            When the workload ends by itself within them, or ends again and again, the sandbox
            fails.
          - Without it, the run watches until the healthcheck is decided for the first time,
            and for 2 seconds where there is none.
          - With V(0), the run does not wait, and an end is a warning.
          - An end with exit code 0 that O(sandboxes[].restart_policy) does not follow with
            a start is no crash.
        type: float
      depends_on:
        description:
          - Sandboxes of this host that are started before this one and stopped after it,
            also when the host boots and shuts down.
          - Each is a name, or a mapping with C(name) and C(condition). With V(started),
            the default, it has to run. With V(healthy), its healthcheck has to succeed
            first.
          - With V(completed), its workload has to end with exit code 0. That needs its
            O(sandboxes[].restart_policy) V(no) or V(on-failure); it is left alone then
            until it changes.
          - While one of them does not, this one is not started and fails with the reason.
            They can't be removed before this one.
          - A restart of one of them does not restart this one.
        type: list
        elements: raw
      snapshot_keep:
        description:
          - How many layers that runs set aside (at a rebuild, another image, a purge) are
            kept as snapshots; older ones are removed.
          - With V(0), none is kept, and what such a run drops is lost.
          - Snapshots that were asked for are not counted. When the file system has less
            than 10 % of its space left, runs remove older ones, never the newest of a sandbox.
          - Defaults to V(3).
        type: int
      snapshot_max_age:
        description:
          - Age at which a layer that was set aside is removed, such as V(30d) or V(12h).
          - Without it, age is no reason.
        type: str
      snapshot_before:
        description:
          - 'Changes before which the volumes of the sandbox are copied: V(rebuild).'
          - The copies and the layer that the change drops are one snapshot. They are made
            while the sandbox is stopped for the change, which takes longer on file systems
            without reflinks.
          - When the change fails and is rolled back, the volumes stay as they are then,
            and the snapshot is kept.
        type: list
        elements: str
        choices: [rebuild]
  defaults:
    description:
      - Options merged under each sandbox; all of O(sandboxes) but C(name).
      - A list or mapping of a sandbox replaces the default one as a whole.
    type: dict
    default: {}
  purge:
    description:
      - 'Whether to remove what is not listed, of the kinds that are given: sandboxes with
        what an interrupted run left, networks, images and trees that nothing refers to.'
      - A network or image that a sandbox still uses is refused, except that the network
        V(default) stays while it is in use.
      - Volumes stay, whatever is listed, without O(purge_volumes). The layer of a purged
        sandbox is set aside as a snapshot, without O(purge_snapshots).
    type: bool
    default: false
  purge_snapshots:
    description:
      - Whether to remove the snapshots of sandboxes that are not there after the run, also
        those that were asked for.
      - With it, the layer of a purged sandbox is not set aside but lost.
    type: bool
    default: false
  purge_volumes:
    description:
      - Whether to remove, with their data, volumes that are neither listed in O(volumes)
        nor used by a sandbox that is there after the run.
      - Only used with O(volumes).
    type: bool
    default: false
  recreate:
    description:
      - Whether to recreate all listed sandboxes. Their writable layers are set aside as
        snapshots; names, addresses and ids stay.
      - Of one that does not start or become healthy, the old one is started again, and
        the module fails when it is done with the others.
    type: bool
    default: false
  restart:
    description:
      - Whether to restart all listed sandboxes that run.
    type: bool
    default: false
  only:
    description:
      - Names of O(sandboxes) that the call is about; it leaves the others alone.
      - Without it, all of them. Not with O(purge).
    type: list
    elements: str
  address:
    description:
      - Name or address of the host that RV(summary) has where a published port answers.
    type: str
    default: 127.0.0.1
  management_ports:
    description:
      - Ports that the host is managed through, which no sandbox may publish, beside those
        that the module finds itself, namely those of SSH servers and of the session it
        runs in.
      - The role passes C(ansible_port), which may be another one, as behind a router or
        a firewall rule that translates it.
    type: list
    elements: int
    default: []
  uploads:
    description:
      - Where archives of O(images[].src) have been copied to, by image.
      - Set by the action plugin of this module, which copies those that are needed.
    type: dict
  host:
    description:
      - Prepares the host first, as M(sandlot.sandlot.sandbox_host) with these options,
        C(image_sources) and C(packages). That module runs only where something is to do.
      - Not for a task with C(async).
    type: dict
"""

EXAMPLES = r"""
- name: All that a host is to have, and nothing else
  sandlot.sandlot.sandboxes:
    images:
      - name: busybox
        source: busybox
    networks:
      - name: default
      - name: tenants
        ipv4_subnet: 10.77.4.0/24
        isolated: true
    sandboxes:
      - name: web
        image: busybox
        command: [httpd, -f, -p, "80", -h, /etc]
        networks:
          - name: tenants
    purge: true

- name: Two sandboxes and nothing else
  sandlot.sandlot.sandboxes:
    defaults:
      image: busybox
      memory: 64m
    sandboxes:
      - name: web
        command: [httpd, -f, -p, "80", -h, /etc]
        published_ports:
          - "8080:80"
      - name: worker
        command: [sh, -c, "while :; do date; sleep 60; done"]
    purge: true

- name: A web server that is started after its database, and stopped before it
  sandlot.sandlot.sandboxes:
    defaults:
      image: busybox
    sandboxes:
      - name: web
        command: [httpd, -f, -p, "80", -h, /etc]
        depends_on:
          - name: db
            condition: healthy
      - name: db
        command: [nc, -ll, -p, "5432", -e, cat]

- name: Remove every sandbox, and what they used
  sandlot.sandlot.sandboxes:
    images: []
    networks: []
    sandboxes: []
    purge: true
    purge_snapshots: true

- name: A host that may be new, and one sandbox
  sandlot.sandlot.sandboxes:
    host:
      packages: install
    images:
      - name: busybox
        source: busybox
    sandboxes:
      - name: web
        image: busybox
        command: [sleep, infinity]
"""

RETURN = r"""
actions:
  description: Actions taken, or due in check mode, one sentence each.
  returned: always
  type: list
  elements: str
  sample: ["web: create from busybox", "web: start"]
images:
  description: All images of the host by name, as M(sandlot.sandlot.sandbox_rootfs) returns them.
  returned: when images were given
  type: dict
done:
  description: Time and size of each image that was made, in order.
  returned: when images were given
  type: list
  elements: dict
  sample:
    - {name: busybox, verb: made, digest: 33797cfa5d26..., size: 2001312, seconds: 0.4}
networks:
  description: All networks of the host by name, as M(sandlot.sandlot.sandbox_network) returns them.
  returned: when networks were given
  type: dict
volumes:
  description: All volumes of the host by name, as M(sandlot.sandlot.sandbox_volume) returns them.
  returned: when volumes were given
  type: dict
sandboxes:
  description:
    - Facts of each sandbox that was listed or removed, by name.
    - C(digest) is of what its init is started with; it stays over changes that need no restart.
    - C(set_aside) is the snapshot that its layer became, C(layer_removed) the size and files
      of a layer that is gone for good; both are there only when the sandbox wrote something.
  returned: success
  type: dict
  sample:
    web:
      name: web
      state: started
      changed: true
      actions: ["web: create from busybox", "web: start"]
      addresses: [10.77.0.2]
      ids: {uid: 200000, gid: 200000, size: 65536}
    db:
      name: db
      state: absent
      changed: true
      actions: ["db: set its layer aside as a snapshot, 12.3 MB in 40 files", "db: remove"]
      set_aside: {id: 20261129T134500Z, reason: purge, size: 12300288, files: 40, more: false}
  contains:
    NAME:
      description: Facts of one sandbox.
      type: dict
      returned: always
      contains:
        hidden_files:
          description:
            - The first 100 files of the kept layer that hide what another image changed, by path.
            - C(hidden_files_count) is the number of all. C(hidden_files_complete) is false when
              there may be more, as not all could be compared.
          type: list
          elements: str
          returned: when it moves to another image with its layer, and both images are there
          sample: [/etc/passwd]
host:
  description:
    - C(missing_packages), C(changed) and the C(actions) of the host; all that
      M(sandlot.sandlot.sandbox_host) returns where it ran, unless the task failed.
  returned: when O(host) was given
  type: dict
  sample: {actions: [], changed: false, missing_packages: []}
relaxed:
  description:
    - Relaxations of the default confinement, by sandbox name and C(network NAME).
  returned: success
  type: dict
  sample:
    web: ["capabilities: NET_RAW"]
    network builders: ["host_access: 9100/tcp"]
summary:
  description: The sandboxes that run, their addresses, and the changes, in one row.
  returned: success
  type: str
  sample: "runs web at http://127.0.0.1:8080/, worker; 1 made, 1 unchanged"
next_command:
  description: A command to try on the host, empty where nothing runs.
  returned: success
  type: str
  sample: sudo sandlot exec -i -t worker -- sh
crashes:
  description:
    - How the workload of a failed sandbox ended by itself, by name, C(what) with C(remedy),
      C(state), C(exit_code), C(signal), C(restarts), C(oom_kills) and C(last_log).
  returned: when a workload crashed
  type: dict
failed_items:
  description: Message of each sandbox that could not be converged; the others were.
  returned: when a sandbox failed
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule, _load_params

from ..module_utils.sandlot import handover


def main() -> None:
    handover.run("sandboxes", AnsibleModule, _load_params())


if __name__ == "__main__":
    main()
