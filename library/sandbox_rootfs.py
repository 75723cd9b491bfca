#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: sandbox_rootfs
short_description: Make the images that sandboxes start from
version_added: 0.1.0
author: the sandlot developers (@sandlot)
description:
  - Makes, replaces and removes images, which are root file systems kept once per host.
  - All sandboxes of an image share its tree, whatever their id ranges.
  - A sandbox that follows an image is restarted when the image changes, with its writable
    layer kept; one that pins a digest keeps the tree it was made from.
requirements:
  - A statically linked busybox, for O(images[].source=busybox)
  - mmdebstrap or debootstrap, for O(images[].source=debootstrap)
extends_documentation_fragment: [ansible.builtin.action_common_attributes]
attributes:
  action_group:
    description: Is in an action group, for defaults by C(module_defaults).
    support: full
    membership: [sandlot.sandlot.sandbox]
  async:
    description: Can run in the background, by C(async).
    support: partial
    details: Not with an archive of O(images[].src).
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
  images:
    description:
      - Images by name.
    type: list
    elements: dict
    required: true
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
  purge:
    description:
      - Whether images that are not listed are removed, and trees nothing refers to.
    type: bool
    default: false
  prune:
    description:
      - Whether trees are removed that neither an image nor a sandbox refers to. Any other
        change of images removes them as well.
    type: bool
    default: false
  uploads:
    description:
      - Where archives of O(images[].src) have been copied to, by image.
      - Set by the action plugin of this module, which copies those that are needed.
    type: dict
notes:
  - Archives are verified before they are read, and unpacked by a confined process.
  - Device nodes and FIFOs in an archive are left out and reported as warnings.
seealso:
  - module: sandlot.sandlot.sandboxes
"""

EXAMPLES = r"""
- name: The image of busybox
  sandlot.sandlot.sandbox_rootfs:
    images:
      - name: busybox
        source: busybox

- name: A root file system from an archive, and no other image
  sandlot.sandlot.sandbox_rootfs:
    images:
      - name: debian
        source: tarball
        url: https://images.example.com/debian-12.tar.xz
        checksum: sha256:2f3a1c9d1b6f5f3f0d6f5c1e7a9b8c4d2e1f0a3b5c7d9e8f6a4b2c0d1e3f5a7b
    purge: true

- name: Images of a registry, one that follows a tag and one that does not
  sandlot.sandlot.sandbox_rootfs:
    images:
      - name: redis
        source: oci
        reference: registry.example.com/library/redis:7
        pull: always
        username: deploy
        password: "{{ vault_registry_password }}"
      - name: tool
        source: oci
        reference: "registry.example.com/tools/x@{{ tool_digest }}"
        platform: linux/arm64

- name: An image that docker saved
  sandlot.sandlot.sandbox_rootfs:
    images:
      - name: app
        source: oci
        reference: docker-archive:/srv/app.tar

- name: Debian with nginx, a page and no other image
  sandlot.sandlot.sandbox_rootfs:
    images:
      - name: web
        source: debootstrap
        suite: bookworm
        setup:
          - packages: [nginx-light]
          - dest: /var/www/html/index.html
            content: "hello\n"
          - nginx -t
    purge: true

- name: The latest that a list of checksums names, asked for in each run
  sandlot.sandlot.sandbox_rootfs:
    images:
      - name: alpine
        source: tarball
        url: https://images.example.com/alpine-minirootfs-x86_64.tar.gz
        checksum: https://images.example.com/alpine-minirootfs-x86_64.tar.gz.sha256
        pull: always

- name: An archive on the controller
  sandlot.sandlot.sandbox_rootfs:
    images:
      - name: app
        source: tarball
        src: app-rootfs.tar.zst
        checksum: sha256:0f3a1c9d1b6f5f3f0d6f5c1e7a9b8c4d2e1f0a3b5c7d9e8f6a4b2c0d1e3f5a7b
"""

RETURN = r"""
actions:
  description: Actions taken, or due in check mode, one sentence each.
  returned: always
  type: list
  elements: str
  sample: ["image busybox: make 33797cfa5d26 from busybox"]
done:
  description: Time and size of each image that was made, in order.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Its name.
      type: str
    verb:
      description: The change.
      type: str
      choices: [made, made again, replaced]
    digest:
      description: Names all that the image is made of.
      type: str
    size:
      description: Bytes of its regular files.
      type: int
    seconds:
      description: How long it took.
      type: float
  sample:
    - {name: busybox, verb: made, digest: 33797cfa5d26..., size: 2001312, seconds: 0.4}
summary:
  description: The changes in one row.
  returned: success
  type: str
  sample: image busybox made (2.0 MB in 0.4 s)
images:
  description: All images of the host by name.
  returned: success
  type: dict
  contains:
    source:
      description: Source of the image.
      type: str
    parameters:
      description: Options of the source.
      type: dict
    digest:
      description: Names all that the image is made of. Empty while that is not known.
      type: str
    base:
      description: Names what the source alone makes.
      type: str
    root:
      description: The topmost of C(layers), empty when there is none.
      type: str
    layers:
      description: Directories it consists of, the topmost first.
      type: list
      elements: str
    config:
      description: Defaults for its sandboxes, such as C(entrypoint), C(command), C(env), C(user).
      type: dict
    size:
      description: Bytes of its regular files.
      type: int
    made:
      description: When it was made, in seconds since 1970.
      type: float
    warnings:
      description: Parts that were left out when it was made.
      type: list
      elements: str
  sample:
    busybox:
      name: busybox
      source: busybox
      parameters: {}
      digest: 33797cfa5d26...
      base: 33797cfa5d26...
      root: /var/lib/sandlot/images/trees/33797cfa5d26.../root
      layers: [/var/lib/sandlot/images/trees/33797cfa5d26.../root]
      config: {}
      size: 2001312
      made: 1764075600.0
      warnings: []
"""

from ansible.module_utils.basic import AnsibleModule, _load_params

from ..module_utils.sandlot import handover


def main() -> None:
    handover.run("sandbox_rootfs", AnsibleModule, _load_params())


if __name__ == "__main__":
    main()
