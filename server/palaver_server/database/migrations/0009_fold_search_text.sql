-- Keyword search gives the same results on every locale. By itself, PostgreSQL lowers letters by
-- the locale of the database: on C only those of ASCII, on Turkish ones I to a dotless i. Its parser
-- takes every character beyond ASCII for a letter on C, and only letters elsewhere. So the parser
-- gets text of small letters, digits and spaces, which tables of Unicode make.
--
-- Words of messages from before this migration may differ: search_index.has_unfolded.

-- The letters and digits of words, for a regular expression: the characters of Unicode 11 that are
-- Alphabetic or decimal digits. All C libraries that PostgreSQL runs on take them for letters.
CREATE FUNCTION search_letters() RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN
    '\u00AA\u00B5\u00BA\u00C0-\u00D6\u00D8-\u00F6\u00F8-\u02C1\u02C6-\u02D1\u02E0-\u02E4\u02EC'
    '\u02EE\u0345\u0370-\u0374\u0376\u0377\u037A-\u037D\u037F\u0386\u0388-\u038A\u038C'
    '\u038E-\u03A1\u03A3-\u03F5\u03F7-\u0481\u048A-\u052F\u0531-\u0556\u0559\u0560-\u0588'
    '\u05B0-\u05BD\u05BF\u05C1\u05C2\u05C4\u05C5\u05C7\u05D0-\u05EA\u05EF-\u05F2\u0610-\u061A'
    '\u0620-\u0657\u0659-\u0669\u066E-\u06D3\u06D5-\u06DC\u06E1-\u06E8\u06ED-\u06FC\u06FF'
    '\u0710-\u073F\u074D-\u07B1\u07C0-\u07EA\u07F4\u07F5\u07FA\u0800-\u0817\u081A-\u082C'
    '\u0840-\u0858\u0860-\u086A\u08A0-\u08B4\u08B6-\u08BD\u08D4-\u08DF\u08E3-\u08E9\u08F0-\u093B'
    '\u093D-\u094C\u094E-\u0950\u0955-\u0963\u0966-\u096F\u0971-\u0983\u0985-\u098C\u098F\u0990'
    '\u0993-\u09A8\u09AA-\u09B0\u09B2\u09B6-\u09B9\u09BD-\u09C4\u09C7\u09C8\u09CB\u09CC\u09CE'
    '\u09D7\u09DC\u09DD\u09DF-\u09E3\u09E6-\u09F1\u09FC\u0A01-\u0A03\u0A05-\u0A0A\u0A0F\u0A10'
    '\u0A13-\u0A28\u0A2A-\u0A30\u0A32\u0A33\u0A35\u0A36\u0A38\u0A39\u0A3E-\u0A42\u0A47\u0A48'
    '\u0A4B\u0A4C\u0A51\u0A59-\u0A5C\u0A5E\u0A66-\u0A75\u0A81-\u0A83\u0A85-\u0A8D\u0A8F-\u0A91'
    '\u0A93-\u0AA8\u0AAA-\u0AB0\u0AB2\u0AB3\u0AB5-\u0AB9\u0ABD-\u0AC5\u0AC7-\u0AC9\u0ACB\u0ACC'
    '\u0AD0\u0AE0-\u0AE3\u0AE6-\u0AEF\u0AF9-\u0AFC\u0B01-\u0B03\u0B05-\u0B0C\u0B0F\u0B10'
    '\u0B13-\u0B28\u0B2A-\u0B30\u0B32\u0B33\u0B35-\u0B39\u0B3D-\u0B44\u0B47\u0B48\u0B4B\u0B4C'
    '\u0B56\u0B57\u0B5C\u0B5D\u0B5F-\u0B63\u0B66-\u0B6F\u0B71\u0B82\u0B83\u0B85-\u0B8A'
    '\u0B8E-\u0B90\u0B92-\u0B95\u0B99\u0B9A\u0B9C\u0B9E\u0B9F\u0BA3\u0BA4\u0BA8-\u0BAA'
    '\u0BAE-\u0BB9\u0BBE-\u0BC2\u0BC6-\u0BC8\u0BCA-\u0BCC\u0BD0\u0BD7\u0BE6-\u0BEF\u0C00-\u0C03'
    '\u0C05-\u0C0C\u0C0E-\u0C10\u0C12-\u0C28\u0C2A-\u0C39\u0C3D-\u0C44\u0C46-\u0C48\u0C4A-\u0C4C'
    '\u0C55\u0C56\u0C58-\u0C5A\u0C60-\u0C63\u0C66-\u0C6F\u0C80-\u0C83\u0C85-\u0C8C\u0C8E-\u0C90'
    '\u0C92-\u0CA8\u0CAA-\u0CB3\u0CB5-\u0CB9\u0CBD-\u0CC4\u0CC6-\u0CC8\u0CCA-\u0CCC\u0CD5\u0CD6'
    '\u0CDE\u0CE0-\u0CE3\u0CE6-\u0CEF\u0CF1\u0CF2\u0D00-\u0D03\u0D05-\u0D0C\u0D0E-\u0D10'
    '\u0D12-\u0D3A\u0D3D-\u0D44\u0D46-\u0D48\u0D4A-\u0D4C\u0D4E\u0D54-\u0D57\u0D5F-\u0D63'
    '\u0D66-\u0D6F\u0D7A-\u0D7F\u0D82\u0D83\u0D85-\u0D96\u0D9A-\u0DB1\u0DB3-\u0DBB\u0DBD'
    '\u0DC0-\u0DC6\u0DCF-\u0DD4\u0DD6\u0DD8-\u0DDF\u0DE6-\u0DEF\u0DF2\u0DF3\u0F00\u0F20-\u0F29'
    '\u0F40-\u0F47\u0F49-\u0F6C\u0F71-\u0F81\u0F88-\u0F97\u0F99-\u0FBC\u10A0-\u10C5\u10C7\u10CD'
    '\u10D0-\u10FA\u10FC-\u10FF\u1200-\u1248\u124A-\u124D\u1250-\u1256\u1258\u125A-\u125D'
    '\u1260-\u1288\u128A-\u128D\u1290-\u12B0\u12B2-\u12B5\u12B8-\u12BE\u12C0\u12C2-\u12C5'
    '\u12C8-\u12D6\u12D8-\u1310\u1312-\u1315\u1318-\u135A\u1380-\u138F\u13A0-\u13F5\u13F8-\u13FD'
    '\u1401-\u166C\u166F-\u167F\u1681-\u169A\u16A0-\u16EA\u16EE-\u16F8\u1700-\u170C\u170E-\u1713'
    '\u1720-\u1733\u1740-\u1753\u1760-\u176C\u176E-\u1770\u1772\u1773\u1810-\u1819\u1820-\u1878'
    '\u1880-\u18AA\u18B0-\u18F5\u1900-\u191E\u1920-\u192B\u1930-\u1938\u1946-\u196D\u1970-\u1974'
    '\u1980-\u19AB\u19B0-\u19C9\u19D0-\u19D9\u1A00-\u1A1B\u1A20-\u1A5E\u1A61-\u1A74\u1A80-\u1A89'
    '\u1A90-\u1A99\u1AA7\u1B00-\u1B33\u1B35-\u1B43\u1B45-\u1B4B\u1B50-\u1B59\u1B80-\u1BA9'
    '\u1BAC-\u1BE5\u1BE7-\u1BF1\u1C00-\u1C36\u1C40-\u1C49\u1C4D-\u1C7D\u1C80-\u1C88\u1C90-\u1CBA'
    '\u1CBD-\u1CBF\u1CE9-\u1CEC\u1CEE-\u1CF3\u1CF5\u1CF6\u1D00-\u1DBF\u1DE7-\u1DF4\u1E00-\u1F15'
    '\u1F18-\u1F1D\u1F20-\u1F45\u1F48-\u1F4D\u1F50-\u1F57\u1F59\u1F5B\u1F5D\u1F5F-\u1F7D'
    '\u1F80-\u1FB4\u1FB6-\u1FBC\u1FBE\u1FC2-\u1FC4\u1FC6-\u1FCC\u1FD0-\u1FD3\u1FD6-\u1FDB'
    '\u1FE0-\u1FEC\u1FF2-\u1FF4\u1FF6-\u1FFC\u2102\u2107\u210A-\u2113\u2115\u2119-\u211D\u2124'
    '\u2126\u2128\u212A-\u212D\u212F-\u2139\u213C-\u213F\u2145-\u2149\u214E\u2160-\u2188'
    '\u2C00-\u2C2E\u2C30-\u2C5E\u2C60-\u2CE4\u2CEB-\u2CEE\u2CF2\u2CF3\u2D00-\u2D25\u2D27\u2D2D'
    '\u2D30-\u2D67\u2D6F\u2D80-\u2D96\u2DA0-\u2DA6\u2DA8-\u2DAE\u2DB0-\u2DB6\u2DB8-\u2DBE'
    '\u2DC0-\u2DC6\u2DC8-\u2DCE\u2DD0-\u2DD6\u2DD8-\u2DDE\u2DE0-\u2DFF\u3021-\u3029\uA000-\uA48C'
    '\uA4D0-\uA4FD\uA500-\uA60C\uA610-\uA62B\uA640-\uA66E\uA674-\uA67B\uA67F-\uA6EF\uA717-\uA71F'
    '\uA722-\uA788\uA78B-\uA7B9\uA7F7-\uA805\uA807-\uA827\uA840-\uA873\uA880-\uA8C3\uA8C5'
    '\uA8D0-\uA8D9\uA8F2-\uA8F7\uA8FB\uA8FD-\uA92A\uA930-\uA952\uA980-\uA9B2\uA9B4-\uA9BF'
    '\uA9CF-\uA9D9\uA9E0-\uA9FE\uAA00-\uAA36\uAA40-\uAA4D\uAA50-\uAA59\uAA60-\uAA76\uAA7A-\uAABE'
    '\uAAC0\uAAC2\uAADB-\uAADD\uAAE0-\uAAEF\uAAF2-\uAAF5\uAB01-\uAB06\uAB09-\uAB0E\uAB11-\uAB16'
    '\uAB20-\uAB26\uAB28-\uAB2E\uAB30-\uAB5A\uAB5C-\uAB65\uAB70-\uABEA\uABF0-\uABF9\uFB00-\uFB06'
    '\uFB13-\uFB17\uFB1D-\uFB28\uFB2A-\uFB36\uFB38-\uFB3C\uFB3E\uFB40\uFB41\uFB43\uFB44'
    '\uFB46-\uFBB1\uFBD3-\uFD3D\uFD50-\uFD8F\uFD92-\uFDC7\uFDF0-\uFDFB\uFE70-\uFE74\uFE76-\uFEFC'
    '\uFF10-\uFF19\uFF21-\uFF3A\uFF41-\uFF5A\U00010000-\U0001000B\U0001000D-\U00010026'
    '\U00010028-\U0001003A\U0001003C\U0001003D\U0001003F-\U0001004D\U00010050-\U0001005D'
    '\U00010080-\U000100FA\U00010140-\U00010174\U00010280-\U0001029C\U000102A0-\U000102D0'
    '\U00010300-\U0001031F\U0001032D-\U0001034A\U00010350-\U0001037A\U00010380-\U0001039D'
    '\U000103A0-\U000103C3\U000103C8-\U000103CF\U000103D1-\U000103D5\U00010400-\U0001049D'
    '\U000104A0-\U000104A9\U000104B0-\U000104D3\U000104D8-\U000104FB\U00010500-\U00010527'
    '\U00010530-\U00010563\U00010600-\U00010736\U00010740-\U00010755\U00010760-\U00010767'
    '\U00010800-\U00010805\U00010808\U0001080A-\U00010835\U00010837\U00010838\U0001083C'
    '\U0001083F-\U00010855\U00010860-\U00010876\U00010880-\U0001089E\U000108E0-\U000108F2'
    '\U000108F4\U000108F5\U00010900-\U00010915\U00010920-\U00010939\U00010980-\U000109B7'
    '\U000109BE\U000109BF\U00010A00-\U00010A03\U00010A05\U00010A06\U00010A0C-\U00010A13'
    '\U00010A15-\U00010A17\U00010A19-\U00010A35\U00010A60-\U00010A7C\U00010A80-\U00010A9C'
    '\U00010AC0-\U00010AC7\U00010AC9-\U00010AE4\U00010B00-\U00010B35\U00010B40-\U00010B55'
    '\U00010B60-\U00010B72\U00010B80-\U00010B91\U00010C00-\U00010C48\U00010C80-\U00010CB2'
    '\U00010CC0-\U00010CF2\U00010D00-\U00010D27\U00010D30-\U00010D39\U00010F00-\U00010F1C'
    '\U00010F27\U00010F30-\U00010F45\U00011000-\U00011045\U00011066-\U0001106F'
    '\U00011082-\U000110B8\U000110D0-\U000110E8\U000110F0-\U000110F9\U00011100-\U00011132'
    '\U00011136-\U0001113F\U00011144-\U00011146\U00011150-\U00011172\U00011176'
    '\U00011180-\U000111BF\U000111C1-\U000111C4\U000111D0-\U000111DA\U000111DC'
    '\U00011200-\U00011211\U00011213-\U00011234\U00011237\U0001123E\U00011280-\U00011286'
    '\U00011288\U0001128A-\U0001128D\U0001128F-\U0001129D\U0001129F-\U000112A8'
    '\U000112B0-\U000112E8\U000112F0-\U000112F9\U00011300-\U00011303\U00011305-\U0001130C'
    '\U0001130F\U00011310\U00011313-\U00011328\U0001132A-\U00011330\U00011332\U00011333'
    '\U00011335-\U00011339\U0001133D-\U00011344\U00011347\U00011348\U0001134B\U0001134C\U00011350'
    '\U00011357\U0001135D-\U00011363\U00011400-\U00011441\U00011443-\U00011445'
    '\U00011447-\U0001144A\U00011450-\U00011459\U00011480-\U000114C1\U000114C4\U000114C5'
    '\U000114C7\U000114D0-\U000114D9\U00011580-\U000115B5\U000115B8-\U000115BE'
    '\U000115D8-\U000115DD\U00011600-\U0001163E\U00011640\U00011644\U00011650-\U00011659'
    '\U00011680-\U000116B5\U000116C0-\U000116C9\U00011700-\U0001171A\U0001171D-\U0001172A'
    '\U00011730-\U00011739\U00011800-\U00011838\U000118A0-\U000118E9\U000118FF'
    '\U00011A00-\U00011A32\U00011A35-\U00011A3E\U00011A50-\U00011A83\U00011A86-\U00011A97'
    '\U00011A9D\U00011AC0-\U00011AF8\U00011C00-\U00011C08\U00011C0A-\U00011C36'
    '\U00011C38-\U00011C3E\U00011C40\U00011C50-\U00011C59\U00011C72-\U00011C8F'
    '\U00011C92-\U00011CA7\U00011CA9-\U00011CB6\U00011D00-\U00011D06\U00011D08\U00011D09'
    '\U00011D0B-\U00011D36\U00011D3A\U00011D3C\U00011D3D\U00011D3F-\U00011D41\U00011D43'
    '\U00011D46\U00011D47\U00011D50-\U00011D59\U00011D60-\U00011D65\U00011D67\U00011D68'
    '\U00011D6A-\U00011D8E\U00011D90\U00011D91\U00011D93-\U00011D96\U00011D98'
    '\U00011DA0-\U00011DA9\U00011EE0-\U00011EF6\U00012000-\U00012399\U00012400-\U0001246E'
    '\U00012480-\U00012543\U00013000-\U0001342E\U00014400-\U00014646\U00016800-\U00016A38'
    '\U00016A40-\U00016A5E\U00016A60-\U00016A69\U00016AD0-\U00016AED\U00016B00-\U00016B2F'
    '\U00016B40-\U00016B43\U00016B50-\U00016B59\U00016B63-\U00016B77\U00016B7D-\U00016B8F'
    '\U00016E40-\U00016E7F\U00016F00-\U00016F44\U00016F50-\U00016F7E\U00016F8F-\U00016F9F'
    '\U00016FE0\U00016FE1\U00017000-\U000187F1\U00018800-\U00018AF2\U0001B000-\U0001B11E'
    '\U0001B170-\U0001B2FB\U0001BC00-\U0001BC6A\U0001BC70-\U0001BC7C\U0001BC80-\U0001BC88'
    '\U0001BC90-\U0001BC99\U0001BC9E\U0001D400-\U0001D454\U0001D456-\U0001D49C'
    '\U0001D49E\U0001D49F\U0001D4A2\U0001D4A5\U0001D4A6\U0001D4A9-\U0001D4AC\U0001D4AE-\U0001D4B9'
    '\U0001D4BB\U0001D4BD-\U0001D4C3\U0001D4C5-\U0001D505\U0001D507-\U0001D50A'
    '\U0001D50D-\U0001D514\U0001D516-\U0001D51C\U0001D51E-\U0001D539\U0001D53B-\U0001D53E'
    '\U0001D540-\U0001D544\U0001D546\U0001D54A-\U0001D550\U0001D552-\U0001D6A5'
    '\U0001D6A8-\U0001D6C0\U0001D6C2-\U0001D6DA\U0001D6DC-\U0001D6FA\U0001D6FC-\U0001D714'
    '\U0001D716-\U0001D734\U0001D736-\U0001D74E\U0001D750-\U0001D76E\U0001D770-\U0001D788'
    '\U0001D78A-\U0001D7A8\U0001D7AA-\U0001D7C2\U0001D7C4-\U0001D7CB\U0001D7CE-\U0001D7FF'
    '\U0001E000-\U0001E006\U0001E008-\U0001E018\U0001E01B-\U0001E021\U0001E023\U0001E024'
    '\U0001E026-\U0001E02A\U0001E800-\U0001E8C4\U0001E900-\U0001E943\U0001E947'
    '\U0001E950-\U0001E959\U0001EE00-\U0001EE03\U0001EE05-\U0001EE1F\U0001EE21\U0001EE22'
    '\U0001EE24\U0001EE27\U0001EE29-\U0001EE32\U0001EE34-\U0001EE37\U0001EE39\U0001EE3B\U0001EE42'
    '\U0001EE47\U0001EE49\U0001EE4B\U0001EE4D-\U0001EE4F\U0001EE51\U0001EE52\U0001EE54\U0001EE57'
    '\U0001EE59\U0001EE5B\U0001EE5D\U0001EE5F\U0001EE61\U0001EE62\U0001EE64\U0001EE67-\U0001EE6A'
    '\U0001EE6C-\U0001EE72\U0001EE74-\U0001EE77\U0001EE79-\U0001EE7C\U0001EE7E'
    '\U0001EE80-\U0001EE89\U0001EE8B-\U0001EE9B\U0001EEA1-\U0001EEA3\U0001EEA5-\U0001EEA9'
    '\U0001EEAB-\U0001EEBB';

-- Marks that are not Alphabetic, such as viramas, and accents without a composed letter. Words are
-- compared without them.
CREATE FUNCTION search_marks() RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN
    '\u0300-\u0344\u0346-\u036F\u0483-\u0489\u0591-\u05AF\u0658\u06DF\u06E0\u06EA-\u06EC'
    '\u0740-\u074A\u07EB-\u07F3\u07FD\u0818\u0819\u082D\u0859-\u085B\u08D3\u08E0\u08E1'
    '\u08EA-\u08EF\u093C\u094D\u0951-\u0954\u09BC\u09CD\u09FE\u0A3C\u0A4D\u0ABC\u0ACD'
    '\u0AFD-\u0AFF\u0B3C\u0B4D\u0BCD\u0C04\u0C4D\u0CBC\u0CCD\u0D3B\u0D3C\u0D4D\u0DCA\u0F18\u0F19'
    '\u0F35\u0F37\u0F39\u0F3E\u0F3F\u0F82-\u0F84\u0F86\u0F87\u0FC6\u135D-\u135F\u1714\u1734'
    '\u180B-\u180D\u1939-\u193B\u1A60\u1A75-\u1A7C\u1A7F\u1AB0-\u1ABE\u1B34\u1B44\u1B6B-\u1B73'
    '\u1BAA\u1BAB\u1BE6\u1BF2\u1BF3\u1C37\u1CD0-\u1CD2\u1CD4-\u1CE8\u1CED\u1CF4\u1CF7-\u1CF9'
    '\u1DC0-\u1DE6\u1DF5-\u1DF9\u1DFB-\u1DFF\u20D0-\u20F0\u2CEF-\u2CF1\u2D7F\u302A-\u302F'
    '\uA66F-\uA672\uA67C\uA67D\uA6F0\uA6F1\uA806\uA8C4\uA8E0-\uA8F1\uA92B-\uA92D\uA953\uA9B3'
    '\uA9C0\uAABF\uAAC1\uAAF6\uABEC\uABED\U000101FD\U000102E0\U00010A38-\U00010A3A\U00010A3F'
    '\U00010AE5\U00010AE6\U00010F46-\U00010F50\U00011046\U0001107F-\U00011081\U000110B9\U000110BA'
    '\U00011133\U00011134\U00011173\U000111C0\U000111C9-\U000111CC\U00011235\U00011236'
    '\U000112E9\U000112EA\U0001133B\U0001133C\U0001134D\U00011366-\U0001136C\U00011370-\U00011374'
    '\U00011442\U00011446\U0001145E\U000114C2\U000114C3\U000115BF\U000115C0\U0001163F'
    '\U000116B6\U000116B7\U0001172B\U00011839\U0001183A\U00011A33\U00011A34\U00011A47'
    '\U00011A98\U00011A99\U00011C3F\U00011D42\U00011D44\U00011D45\U00011D97\U00016AF0-\U00016AF4'
    '\U00016B30-\U00016B36\U0001BC9D\U0001D165-\U0001D169\U0001D16D-\U0001D172'
    '\U0001D17B-\U0001D182\U0001D185-\U0001D18B\U0001D1AA-\U0001D1AD\U0001D242-\U0001D244'
    '\U0001DA00-\U0001DA36\U0001DA3B-\U0001DA6C\U0001DA75\U0001DA84\U0001DA9B-\U0001DA9F'
    '\U0001DAA1-\U0001DAAF\U0001E8D0-\U0001E8D6\U0001E944-\U0001E946\U0001E948-\U0001E94A'
    '\U000E0100-\U000E01EF';

-- The capital letters beyond ASCII, and the small letter of each. A dotted capital I is an i.
CREATE FUNCTION search_capitals() RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN
    'ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÐÑÒÓÔÕÖØÙÚÛÜÝÞĀĂĄĆĈĊČĎĐĒĔĖĘĚĜĞĠĢĤĦĨĪĬĮİĲĴĶĹĻĽĿŁŃŅŇŊŌŎŐŒŔŖŘŚŜŞŠŢŤ'
    'ŦŨŪŬŮŰŲŴŶŸŹŻŽƁƂƄƆƇƉƊƋƎƏƐƑƓƔƖƗƘƜƝƟƠƢƤƦƧƩƬƮƯƱƲƳƵƷƸƼǄǅǇǈǊǋǍǏǑǓǕǗǙǛǞǠǢǤǦǨǪǬǮǱǲǴǶǷǸǺǼ'
    'ǾȀȂȄȆȈȊȌȎȐȒȔȖȘȚȜȞȠȢȤȦȨȪȬȮȰȲȺȻȽȾɁɃɄɅɆɈɊɌɎͰͲͶͿΆΈΉΊΌΎΏΑΒΓΔΕΖΗΘΙΚΛΜΝΞΟΠΡΣΤΥΦΧΨΩΪΫϏϘϚ'
    'ϜϞϠϢϤϦϨϪϬϮϴϷϹϺϽϾϿЀЁЂЃЄЅІЇЈЉЊЋЌЍЎЏАБВГДЕЖЗИЙКЛМНОПРСТУФХЦЧШЩЪЫЬЭЮЯѠѢѤѦѨѪѬѮѰѲѴѶѸѺѼ'
    'ѾҀҊҌҎҐҒҔҖҘҚҜҞҠҢҤҦҨҪҬҮҰҲҴҶҸҺҼҾӀӁӃӅӇӉӋӍӐӒӔӖӘӚӜӞӠӢӤӦӨӪӬӮӰӲӴӶӸӺӼӾԀԂԄԆԈԊԌԎԐԒԔԖԘԚԜԞԠԢԤ'
    'ԦԨԪԬԮԱԲԳԴԵԶԷԸԹԺԻԼԽԾԿՀՁՂՃՄՅՆՇՈՉՊՋՌՍՎՏՐՑՒՓՔՕՖႠႡႢႣႤႥႦႧႨႩႪႫႬႭႮႯႰႱႲႳႴႵႶႷႸႹႺႻႼႽႾႿჀჁჂჃჄ'
    'ჅჇჍᎠᎡᎢᎣᎤᎥᎦᎧᎨᎩᎪᎫᎬᎭᎮᎯᎰᎱᎲᎳᎴᎵᎶᎷᎸᎹᎺᎻᎼᎽᎾᎿᏀᏁᏂᏃᏄᏅᏆᏇᏈᏉᏊᏋᏌᏍᏎᏏᏐᏑᏒᏓᏔᏕᏖᏗᏘᏙᏚᏛᏜᏝᏞᏟᏠᏡᏢᏣᏤᏥᏦᏧᏨᏩᏪᏫᏬ'
    'ᏭᏮᏯᏰᏱᏲᏳᏴᏵᲐᲑᲒᲓᲔᲕᲖᲗᲘᲙᲚᲛᲜᲝᲞᲟᲠᲡᲢᲣᲤᲥᲦᲧᲨᲩᲪᲫᲬᲭᲮᲯᲰᲱᲲᲳᲴᲵᲶᲷᲸᲹᲺᲽᲾᲿḀḂḄḆḈḊḌḎḐḒḔḖḘḚḜḞḠḢḤḦḨḪḬḮḰ'
    'ḲḴḶḸḺḼḾṀṂṄṆṈṊṌṎṐṒṔṖṘṚṜṞṠṢṤṦṨṪṬṮṰṲṴṶṸṺṼṾẀẂẄẆẈẊẌẎẐẒẔẞẠẢẤẦẨẪẬẮẰẲẴẶẸẺẼẾỀỂỄỆỈỊỌỎỐỒỔỖỘ'
    'ỚỜỞỠỢỤỦỨỪỬỮỰỲỴỶỸỺỼỾἈἉἊἋἌἍἎἏἘἙἚἛἜἝἨἩἪἫἬἭἮἯἸἹἺἻἼἽἾἿὈὉὊὋὌὍὙὛὝὟὨὩὪὫὬὭὮὯᾈᾉᾊᾋᾌᾍᾎᾏᾘᾙᾚᾛᾜ'
    'ᾝᾞᾟᾨᾩᾪᾫᾬᾭᾮᾯᾸᾹᾺΆᾼῈΈῊΉῌῘῙῚΊῨῩῪΎῬῸΌῺΏῼΩKÅℲⅠⅡⅢⅣⅤⅥⅦⅧⅨⅩⅪⅫⅬⅭⅮⅯↃⰀⰁⰂⰃⰄⰅⰆⰇⰈⰉⰊⰋⰌⰍⰎⰏⰐⰑⰒⰓⰔⰕⰖⰗ'
    'ⰘⰙⰚⰛⰜⰝⰞⰟⰠⰡⰢⰣⰤⰥⰦⰧⰨⰩⰪⰫⰬⰭⰮⱠⱢⱣⱤⱧⱩⱫⱭⱮⱯⱰⱲⱵⱾⱿⲀⲂⲄⲆⲈⲊⲌⲎⲐⲒⲔⲖⲘⲚⲜⲞⲠⲢⲤⲦⲨⲪⲬⲮⲰⲲⲴⲶⲸⲺⲼⲾⳀⳂⳄⳆⳈⳊⳌⳎⳐⳒ'
    'ⳔⳖⳘⳚⳜⳞⳠⳢⳫⳭⳲꙀꙂꙄꙆꙈꙊꙌꙎꙐꙒꙔꙖꙘꙚꙜꙞꙠꙢꙤꙦꙨꙪꙬꚀꚂꚄꚆꚈꚊꚌꚎꚐꚒꚔꚖꚘꚚꜢꜤꜦꜨꜪꜬꜮꜲꜴꜶꜸꜺꜼꜾꝀꝂꝄꝆꝈꝊꝌꝎꝐꝒꝔꝖꝘꝚꝜꝞꝠꝢ'
    'ꝤꝦꝨꝪꝬꝮꝹꝻꝽꝾꞀꞂꞄꞆꞋꞍꞐꞒꞖꞘꞚꞜꞞꞠꞢꞤꞦꞨꞪꞫꞬꞭꞮꞰꞱꞲꞳꞴꞶꞸＡＢＣＤＥＦＧＨＩＪＫＬＭＮＯＰＱＲＳＴＵＶＷＸＹＺ𐐀𐐁𐐂𐐃𐐄𐐅𐐆𐐇𐐈𐐉𐐊𐐋𐐌𐐍'
    '𐐎𐐏𐐐𐐑𐐒𐐓𐐔𐐕𐐖𐐗𐐘𐐙𐐚𐐛𐐜𐐝𐐞𐐟𐐠𐐡𐐢𐐣𐐤𐐥𐐦𐐧𐒰𐒱𐒲𐒳𐒴𐒵𐒶𐒷𐒸𐒹𐒺𐒻𐒼𐒽𐒾𐒿𐓀𐓁𐓂𐓃𐓄𐓅𐓆𐓇𐓈𐓉𐓊𐓋𐓌𐓍𐓎𐓏𐓐𐓑𐓒𐓓𐲀𐲁𐲂𐲃𐲄𐲅𐲆𐲇𐲈𐲉𐲊𐲋𐲌𐲍𐲎𐲏𐲐𐲑'
    '𐲒𐲓𐲔𐲕𐲖𐲗𐲘𐲙𐲚𐲛𐲜𐲝𐲞𐲟𐲠𐲡𐲢𐲣𐲤𐲥𐲦𐲧𐲨𐲩𐲪𐲫𐲬𐲭𐲮𐲯𐲰𐲱𐲲𑢠𑢡𑢢𑢣𑢤𑢥𑢦𑢧𑢨𑢩𑢪𑢫𑢬𑢭𑢮𑢯𑢰𑢱𑢲𑢳𑢴𑢵𑢶𑢷𑢸𑢹𑢺𑢻𑢼𑢽𑢾𑢿𖹀𖹁𖹂𖹃𖹄𖹅𖹆𖹇𖹈𖹉𖹊𖹋𖹌𖹍𖹎'
    '𖹏𖹐𖹑𖹒𖹓𖹔𖹕𖹖𖹗𖹘𖹙𖹚𖹛𖹜𖹝𖹞𖹟𞤀𞤁𞤂𞤃𞤄𞤅𞤆𞤇𞤈𞤉𞤊𞤋𞤌𞤍𞤎𞤏𞤐𞤑𞤒𞤓𞤔𞤕𞤖𞤗𞤘𞤙𞤚𞤛𞤜𞤝𞤞𞤟𞤠𞤡';

CREATE FUNCTION search_small_letters() RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN
    'àáâãäåæçèéêëìíîïðñòóôõöøùúûüýþāăąćĉċčďđēĕėęěĝğġģĥħĩīĭįiĳĵķĺļľŀłńņňŋōŏőœŕŗřśŝşšţť'
    'ŧũūŭůűųŵŷÿźżžɓƃƅɔƈɖɗƌǝəɛƒɠɣɩɨƙɯɲɵơƣƥʀƨʃƭʈưʊʋƴƶʒƹƽǆǆǉǉǌǌǎǐǒǔǖǘǚǜǟǡǣǥǧǩǫǭǯǳǳǵƕƿǹǻǽ'
    'ǿȁȃȅȇȉȋȍȏȑȓȕȗșțȝȟƞȣȥȧȩȫȭȯȱȳⱥȼƚⱦɂƀʉʌɇɉɋɍɏͱͳͷϳάέήίόύώαβγδεζηθικλμνξοπρστυφχψωϊϋϗϙϛ'
    'ϝϟϡϣϥϧϩϫϭϯθϸϲϻͻͼͽѐёђѓєѕіїјљњћќѝўџабвгдежзийклмнопрстуфхцчшщъыьэюяѡѣѥѧѩѫѭѯѱѳѵѷѹѻѽ'
    'ѿҁҋҍҏґғҕҗҙқҝҟҡңҥҧҩҫҭүұҳҵҷҹһҽҿӏӂӄӆӈӊӌӎӑӓӕӗәӛӝӟӡӣӥӧөӫӭӯӱӳӵӷӹӻӽӿԁԃԅԇԉԋԍԏԑԓԕԗԙԛԝԟԡԣԥ'
    'ԧԩԫԭԯաբգդեզէըթժիլխծկհձղճմյնշոչպջռսվտրցւփքօֆⴀⴁⴂⴃⴄⴅⴆⴇⴈⴉⴊⴋⴌⴍⴎⴏⴐⴑⴒⴓⴔⴕⴖⴗⴘⴙⴚⴛⴜⴝⴞⴟⴠⴡⴢⴣⴤ'
    'ⴥⴧⴭꭰꭱꭲꭳꭴꭵꭶꭷꭸꭹꭺꭻꭼꭽꭾꭿꮀꮁꮂꮃꮄꮅꮆꮇꮈꮉꮊꮋꮌꮍꮎꮏꮐꮑꮒꮓꮔꮕꮖꮗꮘꮙꮚꮛꮜꮝꮞꮟꮠꮡꮢꮣꮤꮥꮦꮧꮨꮩꮪꮫꮬꮭꮮꮯꮰꮱꮲꮳꮴꮵꮶꮷꮸꮹꮺꮻꮼ'
    'ꮽꮾꮿᏸᏹᏺᏻᏼᏽაბგდევზთიკლმნოპჟრსტუფქღყშჩცძწჭხჯჰჱჲჳჴჵჶჷჸჹჺჽჾჿḁḃḅḇḉḋḍḏḑḓḕḗḙḛḝḟḡḣḥḧḩḫḭḯḱ'
    'ḳḵḷḹḻḽḿṁṃṅṇṉṋṍṏṑṓṕṗṙṛṝṟṡṣṥṧṩṫṭṯṱṳṵṷṹṻṽṿẁẃẅẇẉẋẍẏẑẓẕßạảấầẩẫậắằẳẵặẹẻẽếềểễệỉịọỏốồổỗộ'
    'ớờởỡợụủứừửữựỳỵỷỹỻỽỿἀἁἂἃἄἅἆἇἐἑἒἓἔἕἠἡἢἣἤἥἦἧἰἱἲἳἴἵἶἷὀὁὂὃὄὅὑὓὕὗὠὡὢὣὤὥὦὧᾀᾁᾂᾃᾄᾅᾆᾇᾐᾑᾒᾓᾔ'
    'ᾕᾖᾗᾠᾡᾢᾣᾤᾥᾦᾧᾰᾱὰάᾳὲέὴήῃῐῑὶίῠῡὺύῥὸόὼώῳωkåⅎⅰⅱⅲⅳⅴⅵⅶⅷⅸⅹⅺⅻⅼⅽⅾⅿↄⰰⰱⰲⰳⰴⰵⰶⰷⰸⰹⰺⰻⰼⰽⰾⰿⱀⱁⱂⱃⱄⱅⱆⱇ'
    'ⱈⱉⱊⱋⱌⱍⱎⱏⱐⱑⱒⱓⱔⱕⱖⱗⱘⱙⱚⱛⱜⱝⱞⱡɫᵽɽⱨⱪⱬɑɱɐɒⱳⱶȿɀⲁⲃⲅⲇⲉⲋⲍⲏⲑⲓⲕⲗⲙⲛⲝⲟⲡⲣⲥⲧⲩⲫⲭⲯⲱⲳⲵⲷⲹⲻⲽⲿⳁⳃⳅⳇⳉⳋⳍⳏⳑⳓ'
    'ⳕⳗⳙⳛⳝⳟⳡⳣⳬⳮⳳꙁꙃꙅꙇꙉꙋꙍꙏꙑꙓꙕꙗꙙꙛꙝꙟꙡꙣꙥꙧꙩꙫꙭꚁꚃꚅꚇꚉꚋꚍꚏꚑꚓꚕꚗꚙꚛꜣꜥꜧꜩꜫꜭꜯꜳꜵꜷꜹꜻꜽꜿꝁꝃꝅꝇꝉꝋꝍꝏꝑꝓꝕꝗꝙꝛꝝꝟꝡꝣ'
    'ꝥꝧꝩꝫꝭꝯꝺꝼᵹꝿꞁꞃꞅꞇꞌɥꞑꞓꞗꞙꞛꞝꞟꞡꞣꞥꞧꞩɦɜɡɬɪʞʇʝꭓꞵꞷꞹａｂｃｄｅｆｇｈｉｊｋｌｍｎｏｐｑｒｓｔｕｖｗｘｙｚ𐐨𐐩𐐪𐐫𐐬𐐭𐐮𐐯𐐰𐐱𐐲𐐳𐐴𐐵'
    '𐐶𐐷𐐸𐐹𐐺𐐻𐐼𐐽𐐾𐐿𐑀𐑁𐑂𐑃𐑄𐑅𐑆𐑇𐑈𐑉𐑊𐑋𐑌𐑍𐑎𐑏𐓘𐓙𐓚𐓛𐓜𐓝𐓞𐓟𐓠𐓡𐓢𐓣𐓤𐓥𐓦𐓧𐓨𐓩𐓪𐓫𐓬𐓭𐓮𐓯𐓰𐓱𐓲𐓳𐓴𐓵𐓶𐓷𐓸𐓹𐓺𐓻𐳀𐳁𐳂𐳃𐳄𐳅𐳆𐳇𐳈𐳉𐳊𐳋𐳌𐳍𐳎𐳏𐳐𐳑'
    '𐳒𐳓𐳔𐳕𐳖𐳗𐳘𐳙𐳚𐳛𐳜𐳝𐳞𐳟𐳠𐳡𐳢𐳣𐳤𐳥𐳦𐳧𐳨𐳩𐳪𐳫𐳬𐳭𐳮𐳯𐳰𐳱𐳲𑣀𑣁𑣂𑣃𑣄𑣅𑣆𑣇𑣈𑣉𑣊𑣋𑣌𑣍𑣎𑣏𑣐𑣑𑣒𑣓𑣔𑣕𑣖𑣗𑣘𑣙𑣚𑣛𑣜𑣝𑣞𑣟𖹠𖹡𖹢𖹣𖹤𖹥𖹦𖹧𖹨𖹩𖹪𖹫𖹬𖹭𖹮'
    '𖹯𖹰𖹱𖹲𖹳𖹴𖹵𖹶𖹷𖹸𖹹𖹺𖹻𖹼𖹽𖹾𖹿𞤢𞤣𞤤𞤥𞤦𞤧𞤨𞤩𞤪𞤫𞤬𞤭𞤮𞤯𞤰𞤱𞤲𞤳𞤴𞤵𞤶𞤷𞤸𞤹𞤺𞤻𞤼𞤽𞤾𞤿𞥀𞥁𞥂𞥃';

-- The text in small letters, without marks, and with a space in place of each separator. The tables
-- are arguments because PL/pgSQL would find their functions by the search path.
CREATE FUNCTION search_folded(
    content text, capitals text, small_letters text, marks text, separators text
) RETURNS text LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    found text := regexp_replace(content, '[^' || capitals || ']+', '', 'g');
BEGIN
    -- translate compares each character of the text with all that it replaces.
    IF length(found) > 4 THEN
        found := array_to_string(ARRAY(SELECT DISTINCT unnest(string_to_array(found, NULL))), '');
    END IF;
    IF found <> '' THEN
        content := translate(content, found, translate(found, capitals, small_letters));
    END IF;
    content := regexp_replace(lower(content COLLATE "C"), marks, '', 'g');
    RETURN regexp_replace(content, separators, ' ', 'g');
END $$;

CREATE FUNCTION search_folded(content text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN search_folded(
    content, search_capitals(), search_small_letters(), '[' || search_marks() || ']',
    '[^ 0-9a-z' || search_letters() || trim('[]' FROM search_unspaced()) || ']'
);

-- The beginning of a content as the parser gets it to highlight matches: each character that is not
-- a mark has its place.
CREATE FUNCTION search_highlightable(content text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN regexp_replace(search_folded(left(content, 65536)), search_unspaced(), ' ', 'g');

-- The text with separators replaced and equivalent characters in one form, but not folded: words of
-- this are in the index until it is rebuilt.
CREATE FUNCTION search_unfolded(content text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN search_spaced(
    CASE octet_length(content) WHEN length(content) THEN left(content, 65536)
    ELSE left(normalize(left(content, 65536), NFKC), 65536) END
);

-- The text with equivalent characters in one form (NFKC), folded: the part that fits a tsvector.
CREATE OR REPLACE FUNCTION search_normalized(content text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE octet_length(content) WHEN length(content)
    THEN regexp_replace(lower(left(content, 65536) COLLATE "C"), '[^ 0-9a-z]', ' ', 'g')
    ELSE search_folded(left(normalize(left(content, 65536), NFKC), 65536)) END;

-- The words of a normalized text. PL/pgSQL keeps the plan of the subquery, which an SQL function
-- makes each time before PostgreSQL 18. It repeats search_grams, which it would find by the search
-- path. 16383 is the last position that a tsvector has.
CREATE FUNCTION search_normalized_words(content text, unspaced text, language regconfig)
RETURNS tsvector LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    IF content !~ unspaced THEN
        RETURN to_tsvector(language, content);
    END IF;
    RETURN to_tsvector(language, regexp_replace(content, unspaced, ' ', 'g')) || (
        SELECT string_agg(gram || ':' || least(place, 16383), ' ')::tsvector
        FROM (
            SELECT character, character || CASE WHEN next ~ unspaced THEN next ELSE '' END AS gram,
                place
            FROM (
                SELECT *, lead(character, 1, '') OVER (ORDER BY place) AS next
                FROM unnest(string_to_array(content, NULL))
                    WITH ORDINALITY AS characters (character, place)
            ) characters
        ) grams
        WHERE character ~ unspaced
    );
END $$;

-- The words of a content or role. PostgreSQL inlines this function.
CREATE OR REPLACE FUNCTION search_words(content text, language regconfig) RETURNS tsvector
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE octet_length(content) WHEN length(content)
    THEN to_tsvector(language, search_normalized(content))
    ELSE search_normalized_words(search_normalized(content), search_unspaced(), language) END;

DROP FUNCTION search_normalized_words(text, regconfig);
DROP FUNCTION search_gram_words(text);

-- The terms of a query with these words: each as a tsquery, in order. A single character matches
-- every word that begins with it; the last character of a run is part of the bigram before it.
CREATE FUNCTION search_terms_of_words(words tsvector) RETURNS TABLE (term text)
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT quote_literal(lexeme) || CASE WHEN is_alone THEN ':*' ELSE '' END
    FROM (
        SELECT lexeme, place, length(lexeme) = 1 AND lexeme ~ search_unspaced() AS is_alone,
            bool_or(length(lexeme) = 2 AND lexeme ~ search_unspaced()) OVER (
                ORDER BY place RANGE BETWEEN 1 PRECEDING AND 1 PRECEDING
            ) IS TRUE AS follows
        FROM unnest(words) AS lexemes, unnest(lexemes.positions) AS place
    ) placed
    WHERE NOT (is_alone AND follows)
    GROUP BY 1
    ORDER BY min(place), min(lexeme COLLATE "C");
END;

CREATE OR REPLACE FUNCTION search_terms(content text, language regconfig)
RETURNS TABLE (term text) LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT term FROM search_terms_of_words(search_words(content, language));
END;

-- A query for consecutive words of a text; each run of an unspaced script is a phrase of its own.
CREATE FUNCTION search_normalized_phrase(content text, language regconfig) RETURNS tsquery
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT phraseto_tsquery(language, regexp_replace(content, search_unspaced(), ' ', 'g'))
        && coalesce(string_agg(phrase, ' & ')::tsquery, '')
    FROM (
        SELECT string_agg(
            gram || CASE WHEN length(gram) = 1 THEN ':*' ELSE '' END, ' <-> ' ORDER BY place
        ) AS phrase
        FROM (
            SELECT gram, place, place - row_number() OVER (ORDER BY place) AS run,
                lag(place) OVER (ORDER BY place) IS NOT DISTINCT FROM place - 1 AS follows
            FROM search_grams(content)
        ) grams
        WHERE NOT (length(gram) = 1 AND follows)
        GROUP BY run
    ) runs;
END;

CREATE OR REPLACE FUNCTION search_phrase(content text, language regconfig) RETURNS tsquery
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN search_normalized_phrase(search_normalized(content), language);

-- The same by the words that are in the index until it is rebuilt.
CREATE FUNCTION search_unfolded_terms(content text, language regconfig) RETURNS TABLE (term text)
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT term FROM search_terms_of_words(
        search_normalized_words(search_unfolded(content), search_unspaced(), language)
    );
END;

CREATE FUNCTION search_unfolded_phrase(content text, language regconfig) RETURNS tsquery
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN search_normalized_phrase(search_unfolded(content), language);

-- Whether words of some messages may be unfolded. A reindex makes it false.
ALTER TABLE search_index ADD COLUMN has_unfolded boolean NOT NULL DEFAULT true;
UPDATE search_index SET has_unfolded = EXISTS (SELECT 1 FROM messages);
