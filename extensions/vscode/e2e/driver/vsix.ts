// Packs a folder with an extension that needs no build. A .vsix is a zip with
// two descriptions beside the extension.

import * as fs from 'node:fs';
import * as path from 'node:path';
import { crc32 } from 'node:zlib';

interface Entry {
	readonly name: string;
	readonly data: Buffer;
}

/** Packs the folder and returns the file's path. */
export function pack(folder: string, into: string): string {
	const manifest = JSON.parse(fs.readFileSync(path.join(folder, 'package.json'), 'utf8')) as { name: string; version: string; publisher: string; engines: { vscode: string } };
	const entries: Entry[] = [
		{ name: 'extension.vsixmanifest', data: Buffer.from(describe(manifest)) },
		{ name: '[Content_Types].xml', data: Buffer.from(contentTypes) },
	];
	for (const f of fs.readdirSync(folder, { recursive: true, withFileTypes: true })) {
		if (f.isFile()) {
			const file = path.join(f.parentPath, f.name);
			entries.push({ name: 'extension/' + path.relative(folder, file), data: fs.readFileSync(file) });
		}
	}
	const file = path.join(into, `${manifest.publisher}.${manifest.name}.vsix`);
	fs.writeFileSync(file, zip(entries));
	return file;
}

const contentTypes = `<?xml version="1.0" encoding="utf-8"?>
<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">
<Default Extension=".json" ContentType="application/json"/><Default Extension=".cjs" ContentType="application/javascript"/>
<Default Extension=".vsixmanifest" ContentType="text/xml"/>
</Types>
`;

function describe(m: { name: string; version: string; publisher: string; engines: { vscode: string } }): string {
	return `<?xml version="1.0" encoding="utf-8"?>
<PackageManifest Version="2.0.0" xmlns="http://schemas.microsoft.com/developer/vsx-schema/2011">
<Metadata>
<Identity Language="en-US" Id="${m.name}" Version="${m.version}" Publisher="${m.publisher}"/>
<DisplayName>${m.name}</DisplayName>
<Properties><Property Id="Microsoft.VisualStudio.Code.Engine" Value="${m.engines.vscode}"/></Properties>
</Metadata>
<Installation><InstallationTarget Id="Microsoft.VisualStudio.Code"/></Installation>
<Dependencies/>
<Assets><Asset Type="Microsoft.VisualStudio.Code.Manifest" Path="extension/package.json" Addressable="true"/></Assets>
</PackageManifest>
`;
}

/** A zip of entries that are stored as they are. */
function zip(entries: readonly Entry[]): Buffer {
	const parts: Buffer[] = [];
	const directory: Buffer[] = [];
	let offset = 0;
	for (const e of entries) {
		const name = Buffer.from(e.name);
		const about = Buffer.alloc(26); // what the local header and the directory have in common
		about.writeUInt16LE(20, 0); // version
		about.writeUInt16LE(0x800, 2); // names are UTF-8
		about.writeUInt16LE(0x21, 8); // a date: 1980-01-01
		about.writeUInt32LE(crc32(e.data), 10);
		about.writeUInt32LE(e.data.length, 14);
		about.writeUInt32LE(e.data.length, 18);
		about.writeUInt16LE(name.length, 22);
		const rest = Buffer.alloc(14);
		rest.writeUInt32LE(offset, 10);
		parts.push(Buffer.from('PK\x03\x04'), about, name, e.data);
		directory.push(Buffer.from('PK\x01\x02\x14\x00'), about, rest, name);
		offset += 30 + name.length + e.data.length;
	}
	const listed = Buffer.concat(directory);
	const end = Buffer.alloc(18);
	end.writeUInt16LE(entries.length, 4);
	end.writeUInt16LE(entries.length, 6);
	end.writeUInt32LE(listed.length, 8);
	end.writeUInt32LE(offset, 12);
	return Buffer.concat([...parts, listed, Buffer.from('PK\x05\x06'), end]);
}
